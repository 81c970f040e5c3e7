-- What training remembers of a model: the policy's state, as JSON of ctloop.policy.state.
CREATE TABLE IF NOT EXISTS policy_state (
  model text PRIMARY KEY,
  state text NOT NULL,
  updated timestamptz NOT NULL
);
-- The newest version of each dataset known here.
CREATE TABLE IF NOT EXISTS dataset (
  dataset text PRIMARY KEY,
  n bigint NOT NULL,
  version text NOT NULL,
  data_time timestamptz
);
-- Every decision, acted on or not, with each node's value.
CREATE TABLE IF NOT EXISTS decision (
  id uuid PRIMARY KEY,
  model text NOT NULL,
  cause uuid NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('acted', 'proposed', 'watched', 'declined')),
  trigger text,
  reason text NOT NULL,
  tree text NOT NULL,
  data_time timestamptz NOT NULL,
  decided_at timestamptz NOT NULL,
  fact text,                          -- the RetrainDecided it said, or would say when a person approves it
  plan text,                          -- what the run reads: JSON of store.Plan
  run_id uuid,
  UNIQUE (model, cause)
);
CREATE INDEX IF NOT EXISTS decision_of_model ON decision (model, data_time DESC, decided_at DESC);
-- A run is the job that trains; its row says what became of it.
CREATE TABLE IF NOT EXISTS run (
  id uuid PRIMARY KEY,
  decision_id uuid NOT NULL REFERENCES decision (id),
  model text NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'trained', 'failed', 'passed', 'refused', 'promoted')),
  data_time timestamptz NOT NULL,
  asked_at timestamptz NOT NULL,
  ended_at timestamptz,
  fact text                           -- ModelTrained or TrainingFailed
);
CREATE INDEX IF NOT EXISTS run_of_model ON run (model, asked_at DESC);
