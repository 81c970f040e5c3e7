-- The batch of each dataset that still takes arrivals. Its row is the lock under which arrivals are placed.
CREATE TABLE IF NOT EXISTS open_batch (
  dataset text PRIMARY KEY,
  number bigint NOT NULL DEFAULT 1, rows bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0,
  arrivals integer NOT NULL DEFAULT 0
);
-- The arrival ledger: which batch every arrival is in. seq is the arrival's number, for ever.
CREATE TABLE IF NOT EXISTS arrival (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  dataset text NOT NULL, number bigint NOT NULL,
  id uuid NOT NULL, source text NOT NULL, arrived timestamptz NOT NULL,
  format text NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS arrival_batch ON arrival (dataset, number, seq);
-- Bodies until their batch has landed. They are compressed or incompressible already.
CREATE TABLE IF NOT EXISTS arrival_body (seq bigint PRIMARY KEY, body bytea NOT NULL);
ALTER TABLE arrival_body ALTER COLUMN body SET STORAGE EXTERNAL;
-- Batches that landed, and those that could not be staged (uri is null; their bodies are kept).
CREATE TABLE IF NOT EXISTS batch (
  dataset text NOT NULL, number bigint NOT NULL, uri text, sha256 text, bytes bigint, rows bigint, labels bigint,
  problem text, ended timestamptz NOT NULL, PRIMARY KEY (dataset, number)
);
-- Requests at the door, by Idempotency-Key: the same request again gets the same answer.
CREATE TABLE IF NOT EXISTS door_request (
  dataset text NOT NULL, key text NOT NULL, digest text NOT NULL, receipts text,
  begun timestamptz NOT NULL, PRIMARY KEY (dataset, key)
);
