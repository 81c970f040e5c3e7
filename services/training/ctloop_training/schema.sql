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
  data_time timestamptz,
  labelled bigint NOT NULL DEFAULT 0  -- labelled rows in all its batches
);
-- Every decision, acted on or not, with each node's value.
CREATE TABLE IF NOT EXISTS decision (
  id uuid PRIMARY KEY,
  seq bigint GENERATED ALWAYS AS IDENTITY,
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
CREATE INDEX IF NOT EXISTS decision_of_model ON decision (model, seq);
CREATE INDEX IF NOT EXISTS decision_by_outcome ON decision (model, outcome, seq);
CREATE INDEX IF NOT EXISTS decision_not_acted ON decision (model, seq) WHERE outcome <> 'acted';
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
-- The job of a run, found without reading the arguments of all that ever were.
CREATE INDEX IF NOT EXISTS job_of_run ON job ((arguments::jsonb #>> '{spec,run_id}')) WHERE kind = 'train-model';
