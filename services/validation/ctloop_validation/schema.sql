-- The state of each dataset: its newest version, the running digest and how far data time has come.
CREATE TABLE IF NOT EXISTS dataset (
  dataset text PRIMARY KEY,
  n bigint NOT NULL, digest text NOT NULL, records_version bigint NOT NULL, labels_version bigint NOT NULL,
  digest_first numeric(20) NOT NULL, digest_second numeric(20) NOT NULL, digest_rows bigint NOT NULL,
  records bigint NOT NULL, labels bigint NOT NULL, data_time timestamptz
);
-- Every version a dataset has had.
CREATE TABLE IF NOT EXISTS dataset_version (
  dataset text NOT NULL, n bigint NOT NULL, digest text NOT NULL,
  records_version bigint NOT NULL, labels_version bigint NOT NULL, number bigint NOT NULL,
  records bigint NOT NULL, labels bigint NOT NULL, data_time timestamptz, created timestamptz NOT NULL,
  PRIMARY KEY (dataset, n)
);
-- What was found in each batch.
CREATE TABLE IF NOT EXISTS audit (
  dataset text NOT NULL, number bigint NOT NULL, verdict text NOT NULL, rows bigint NOT NULL, labelled bigint NOT NULL,
  duplicates bigint NOT NULL, quarantined bigint NOT NULL, report_uri text NOT NULL, quarantine_uri text,
  ended timestamptz NOT NULL, PRIMARY KEY (dataset, number)
);
-- Ids seen, with the digest of their content: repeats are dropped, other content is refused.
CREATE TABLE IF NOT EXISTS known_record (
  dataset text NOT NULL, id text NOT NULL, digest bytea NOT NULL, PRIMARY KEY (dataset, id)
);
-- The newest label of each id, to recognise repeats.
CREATE TABLE IF NOT EXISTS known_label (
  dataset text NOT NULL, id text NOT NULL, digest bytea NOT NULL, PRIMARY KEY (dataset, id)
);
-- Rows in quarantine, the first of each batch; the object of the batch has all.
CREATE TABLE IF NOT EXISTS quarantined_row (
  dataset text NOT NULL, number bigint NOT NULL, sequence bigint NOT NULL,
  reasons text[] NOT NULL, row text NOT NULL, quarantined timestamptz NOT NULL,
  PRIMARY KEY (dataset, number, sequence)
);
-- Models that were trained, with the newest verdict on each.
CREATE TABLE IF NOT EXISTS candidate (
  run_id uuid PRIMARY KEY,
  model text NOT NULL,
  fact text NOT NULL,                 -- ModelTrained
  loop_id uuid,
  trained_at timestamptz NOT NULL,
  verdict text CHECK (verdict IN ('passed', 'failed')),
  champion_epoch bigint,              -- the verdict's
  promoted boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS candidate_waiting ON candidate (model, trained_at) WHERE NOT promoted AND verdict = 'passed';
-- The champion as of its highest epoch known here.
CREATE TABLE IF NOT EXISTS champion (
  model text PRIMARY KEY,
  epoch bigint NOT NULL,
  champion text NOT NULL              -- JSON of model_store.Champion
);
