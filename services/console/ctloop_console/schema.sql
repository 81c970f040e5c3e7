-- Every fact of the control plane, once. seq is taken under one lock, so that its order is the order of commits:
-- a reader who has seen seq n has seen everything below it.
CREATE TABLE IF NOT EXISTS fact (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id uuid NOT NULL,
  source text NOT NULL,
  topic text NOT NULL,
  subject text NOT NULL,
  said_at timestamptz NOT NULL,
  heard_at timestamptz NOT NULL,
  loop_id uuid,
  causation_id uuid,
  traceparent text,
  run_id uuid,
  version integer,
  payload text NOT NULL,
  UNIQUE (source, id)
);
CREATE INDEX IF NOT EXISTS fact_id ON fact (id);
CREATE INDEX IF NOT EXISTS fact_loop ON fact (loop_id) WHERE loop_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS fact_run ON fact (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS fact_subject ON fact (subject, seq);
CREATE INDEX IF NOT EXISTS fact_topic ON fact (topic, seq);
CREATE INDEX IF NOT EXISTS fact_decision ON fact (topic, subject, said_at, id);
CREATE INDEX IF NOT EXISTS fact_said ON fact (said_at);
CREATE INDEX IF NOT EXISTS fact_version ON fact (subject, version, topic) WHERE version IS NOT NULL;

-- Facts by topic, kept up with each one, so that counting does not read them all.
CREATE TABLE IF NOT EXISTS fact_count (topic text PRIMARY KEY, facts bigint NOT NULL, last_said timestamptz NOT NULL);
