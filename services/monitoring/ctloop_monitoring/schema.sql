-- What monitoring keeps: predictions, label observations, the watch over each model's champion, windows, episodes.

-- The champion of a model and how far it has been judged. One row per model: its lock puts a model's work in order.
CREATE TABLE IF NOT EXISTS watch (
  model text PRIMARY KEY, dataset text NOT NULL,
  version integer NOT NULL, epoch integer NOT NULL, pipeline_digest text NOT NULL,
  classes text[] NOT NULL,
  training_start timestamptz NOT NULL, training_end timestamptz NOT NULL, training_rows bigint NOT NULL,
  promoted_data_time timestamptz NOT NULL,
  next_end timestamptz NOT NULL,
  first_end timestamptz NOT NULL,
  labels_from timestamptz NOT NULL, -- observations of labels before this are asked for no more
  reference text,
  reference_failed text,
  detector text,
  episodes text
);

-- How far the predictions of a model have come: in data time, and when the last one was heard.
CREATE TABLE IF NOT EXISTS served (
  model text PRIMARY KEY, until timestamptz NOT NULL, heard_at timestamptz NOT NULL, unjoinable bigint NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS prediction (
  model text NOT NULL, prediction_id uuid NOT NULL, record_id text,
  version integer NOT NULL, epoch integer NOT NULL,
  output double precision, probabilities bytea,
  data_time timestamptz NOT NULL,
  PRIMARY KEY (model, prediction_id)
);
CREATE INDEX IF NOT EXISTS prediction_record ON prediction (model, record_id);
CREATE INDEX IF NOT EXISTS prediction_time ON prediction (model, data_time);

-- Every observation of a label: the first says since when it is known, the last what it is.
CREATE TABLE IF NOT EXISTS label (
  dataset text NOT NULL, record_id text NOT NULL, observed_at timestamptz NOT NULL, sequence bigint NOT NULL,
  word text, number double precision,
  PRIMARY KEY (dataset, record_id, observed_at, sequence)
);
CREATE INDEX IF NOT EXISTS label_time ON label (dataset, observed_at);

CREATE TABLE IF NOT EXISTS dataset_clock (dataset text PRIMARY KEY, data_time timestamptz NOT NULL);

-- Inputs of the champion's predictions, binned by the reference: one row per window of data time.
CREATE TABLE IF NOT EXISTS binned (
  model text NOT NULL, epoch integer NOT NULL, window_end timestamptz NOT NULL, counts text NOT NULL,
  PRIMARY KEY (model, epoch, window_end)
);

-- Predictions that came before their version's reference was built: binned and deleted when it is.
CREATE TABLE IF NOT EXISTS unbinned (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, model text NOT NULL, epoch integer NOT NULL, body bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS unbinned_model ON unbinned (model, epoch, n);

CREATE TABLE IF NOT EXISTS measured (
  model text NOT NULL, epoch integer NOT NULL, window_end timestamptz NOT NULL,
  data_time timestamptz NOT NULL, said text NOT NULL,
  PRIMARY KEY (model, epoch, window_end)
);
CREATE INDEX IF NOT EXISTS measured_time ON measured (model, window_end);

CREATE TABLE IF NOT EXISTS drift_score (
  model text NOT NULL, epoch integer NOT NULL, window_end timestamptz NOT NULL, said text NOT NULL,
  PRIMARY KEY (model, epoch, window_end)
);
CREATE INDEX IF NOT EXISTS drift_score_time ON drift_score (model, window_end);

CREATE TABLE IF NOT EXISTS episode (
  episode uuid PRIMARY KEY, model text NOT NULL, epoch integer NOT NULL, kind text NOT NULL,
  detected text NOT NULL, resolved text
);
CREATE INDEX IF NOT EXISTS episode_model ON episode (model, (detected::json ->> 'data_time'));
CREATE INDEX IF NOT EXISTS episode_open ON episode (model, kind) WHERE resolved IS NULL;

CREATE TABLE IF NOT EXISTS deployment (
  model text NOT NULL, epoch integer NOT NULL, replica text NOT NULL, version integer NOT NULL,
  first_answer_at timestamptz NOT NULL,
  PRIMARY KEY (model, epoch, replica)
);
