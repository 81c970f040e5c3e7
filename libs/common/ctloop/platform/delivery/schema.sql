-- Every service's delivery tables, in its own schema. Kafka is the transport, these rows are the truth.
CREATE SEQUENCE IF NOT EXISTS owner_epoch;

CREATE TABLE IF NOT EXISTS consumer_offset (
  topic text NOT NULL, part integer NOT NULL,
  next_offset bigint NOT NULL, owner_epoch bigint NOT NULL,
  updated timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (topic, part)
);

CREATE TABLE IF NOT EXISTS inbox (
  source text NOT NULL, id uuid NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (source, id)
);
CREATE INDEX IF NOT EXISTS inbox_at ON inbox USING brin (at);

CREATE TABLE IF NOT EXISTS outbox (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL, key bytea NOT NULL,
  source text NOT NULL, id uuid NOT NULL,
  headers text NOT NULL, payload bytea NOT NULL,
  created timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (source, id, topic)
);

-- Events that wait: for something not yet known, for infrastructure, or behind an earlier one of their key.
CREATE TABLE IF NOT EXISTS parked (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL, part integer NOT NULL, "offset" bigint NOT NULL, key bytea NOT NULL,
  source text NOT NULL, id uuid NOT NULL,
  headers text NOT NULL, payload bytea NOT NULL,
  attempts integer NOT NULL DEFAULT 0, reason text NOT NULL, message text NOT NULL DEFAULT '',
  first_failed timestamptz NOT NULL DEFAULT clock_timestamp(),
  not_before timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS parked_key ON parked (topic, key, seq);

CREATE TABLE IF NOT EXISTS quarantine (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL, part integer NOT NULL, "offset" bigint NOT NULL, key bytea NOT NULL,
  source text NOT NULL, id uuid NOT NULL,
  headers text NOT NULL, payload bytea NOT NULL,
  reason text NOT NULL, message text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS dead_event (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL, part integer NOT NULL, "offset" bigint NOT NULL, key bytea NOT NULL,
  source text NOT NULL, id uuid NOT NULL,
  headers text NOT NULL, payload bytea NOT NULL,
  reason text NOT NULL, message text NOT NULL, attempts integer NOT NULL,
  state text NOT NULL DEFAULT 'DEAD' CHECK (state IN ('DEAD', 'REPLAYED')),
  first_failed timestamptz NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What an operator must know about a partition: a gap, a lost range, a topic that is not the one we read before.
CREATE TABLE IF NOT EXISTS incident (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL, part integer NOT NULL, kind text NOT NULL, message text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Written before a record is tried again after an unclean exit, or a parked one at all: one that kills the process is
-- dead after three. life: of the process that tried; only another one says that it has died.
CREATE TABLE IF NOT EXISTS attempt (
  topic text NOT NULL, part integer NOT NULL, "offset" bigint NOT NULL, deaths integer NOT NULL, life uuid NOT NULL,
  PRIMARY KEY (topic, part, "offset")
);
-- Whose name it is: the newest process of an ordinal. One that finds another's life here is a zombie and ends itself.
CREATE TABLE IF NOT EXISTS process (ordinal integer PRIMARY KEY, clean boolean NOT NULL, life uuid NOT NULL);

CREATE TABLE IF NOT EXISTS command_log (
  key text PRIMARY KEY, command text NOT NULL, body_digest text NOT NULL, said text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);
