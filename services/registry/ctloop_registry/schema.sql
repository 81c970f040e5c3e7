-- What the registry keeps. Facts are kept as the JSON they were said in; columns are what is asked for.

CREATE TABLE IF NOT EXISTS pipeline_release (
  model text NOT NULL,
  pipeline_version integer NOT NULL CHECK (pipeline_version >= 1),
  digest text NOT NULL,
  dataset text NOT NULL,
  manifest text NOT NULL,
  released_at timestamptz NOT NULL,
  PRIMARY KEY (model, pipeline_version)
);
CREATE INDEX IF NOT EXISTS pipeline_release_dataset ON pipeline_release (dataset);
CREATE INDEX IF NOT EXISTS pipeline_release_digest ON pipeline_release (digest);

-- The row that is locked while versions of a model are numbered, pipelines released and the pointer moved.
CREATE TABLE IF NOT EXISTS registered_model (
  model text PRIMARY KEY,
  last_version integer NOT NULL DEFAULT 0,
  last_pipeline integer NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS model_version (
  model text NOT NULL REFERENCES registered_model,
  version integer NOT NULL CHECK (version >= 1),
  run_id uuid NOT NULL,
  digest text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (model, version),
  UNIQUE (model, run_id)
);

-- One row per judgement of a version: the gates' values are in the fact. id is that of the ModelValidated.
CREATE TABLE IF NOT EXISTS evidence (
  id uuid PRIMARY KEY,
  model text NOT NULL,
  version integer NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('passed', 'failed')),
  champion_epoch integer NOT NULL CHECK (champion_epoch >= 0),
  outcome text NOT NULL,
  fact text NOT NULL,
  judged_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL,
  loop_id uuid,
  FOREIGN KEY (model, version) REFERENCES model_version (model, version),
  UNIQUE (id, model, version)
);
CREATE INDEX IF NOT EXISTS evidence_version ON evidence (model, version, recorded_at DESC);

-- The pointer: one row per model, moved by compare-and-set on the epoch. Without evidence of that very version: impossible.
CREATE TABLE IF NOT EXISTS champion (
  model text PRIMARY KEY,
  version integer NOT NULL,
  epoch integer NOT NULL CHECK (epoch >= 1),
  evidence uuid NOT NULL,
  fact text NOT NULL,
  event_id uuid NOT NULL,
  loop_id uuid,
  traceparent text,
  since timestamptz NOT NULL,
  FOREIGN KEY (model, version) REFERENCES model_version (model, version),
  FOREIGN KEY (evidence, model, version) REFERENCES evidence (id, model, version)
);

CREATE TABLE IF NOT EXISTS champion_history (
  model text NOT NULL,
  epoch integer NOT NULL CHECK (epoch >= 1),
  version integer NOT NULL,
  previous_version integer,
  move text NOT NULL CHECK (move IN ('promoted', 'rolled-back')),
  moved_by text NOT NULL,
  reason text NOT NULL DEFAULT '',
  evidence uuid NOT NULL,
  fact text NOT NULL,
  event_id uuid NOT NULL,
  loop_id uuid,
  since timestamptz NOT NULL,
  PRIMARY KEY (model, epoch),
  FOREIGN KEY (evidence, model, version) REFERENCES evidence (id, model, version)
);
CREATE INDEX IF NOT EXISTS champion_history_version ON champion_history (model, version, epoch) WHERE move = 'promoted';

CREATE TABLE IF NOT EXISTS deployment (
  model text NOT NULL,
  epoch integer NOT NULL,
  replica text NOT NULL,
  version integer NOT NULL,
  first_answer_at timestamptz,
  load_seconds double precision,
  golden boolean,
  failed_at timestamptz,
  failure text,
  PRIMARY KEY (model, epoch, replica)
);
