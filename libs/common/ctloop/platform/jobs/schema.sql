-- Long work outside a transaction: leased, fenced, and ended by one compare-and-set.
CREATE TABLE IF NOT EXISTS job (
  id uuid PRIMARY KEY,
  seq bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL, arguments text NOT NULL, spec_hash text NOT NULL,
  lane text NOT NULL DEFAULT '', lane_key text NOT NULL DEFAULT '', priority integer NOT NULL DEFAULT 0,
  cause text NOT NULL,
  state text NOT NULL DEFAULT 'QUEUED' CHECK (state IN ('QUEUED', 'RUNNING', 'DONE', 'FAILED', 'CANCELLED')),
  owner text, fence integer NOT NULL DEFAULT 0, attempt integer NOT NULL DEFAULT 0,
  deaths integer NOT NULL DEFAULT 0,
  lease_until timestamptz, not_before timestamptz NOT NULL DEFAULT clock_timestamp(),
  notes text NOT NULL DEFAULT '{}', message text NOT NULL DEFAULT '',
  created timestamptz NOT NULL DEFAULT clock_timestamp(), started timestamptz, ended timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS job_one_per_spec ON job (spec_hash) WHERE state IN ('QUEUED', 'RUNNING');
CREATE INDEX IF NOT EXISTS job_open ON job (priority, seq) WHERE state IN ('QUEUED', 'RUNNING');
CREATE INDEX IF NOT EXISTS job_lane ON job (lane, lane_key, seq) WHERE state IN ('QUEUED', 'RUNNING');
