CREATE SCHEMA IF NOT EXISTS sitemon;

-- Numbers about the store itself.
CREATE TABLE sitemon.meta(name text PRIMARY KEY, value bigint NOT NULL);

-- A site at a location; its id is its place in every key below.
CREATE TABLE sitemon.series(
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site text NOT NULL, location text NOT NULL, UNIQUE(site, location));

-- Observations as they came, a row for each. Times are microseconds since 1970, or durations in microseconds. The rows
-- lie in pieces by the time of their arrival, arrivals_1 and so on, which inherit from this table; the newest is
-- written to, the others are packed into blocks and dropped whole.
-- No index but by slot: `sitemon.observations` and scans read a span of time, and arrivals come in its order, so
-- ranges of pages say enough. `record` has all of the observation, in the same bytes as in other stores.
CREATE TABLE sitemon.arrivals(
    slot bigint NOT NULL, series integer NOT NULL, verdict smallint NOT NULL, scheduled boolean NOT NULL,
    interval_us bigint NOT NULL, timeout_us bigint NOT NULL, lag_us bigint, response_time_us bigint,
    status integer, wire_bytes bigint, decoded_bytes bigint,
    dns_us bigint, connect_us bigint, proxy_us bigint, tls_us bigint, send_us bigint, wait_us bigint,
    receive_us bigint, causes text, record bytea NOT NULL);
-- Records are small and mostly unlike others in the same row, so compressing each would cost more than it gives.
ALTER TABLE sitemon.arrivals ALTER COLUMN record SET STORAGE EXTERNAL;
CREATE TABLE sitemon.pieces(id integer PRIMARY KEY);
-- One row for each transaction that appended: what lies where, without looking at the arrivals.
CREATE TABLE sitemon.batches(
    piece integer NOT NULL, count bigint NOT NULL, first_slot bigint NOT NULL, last_slot bigint NOT NULL);

-- The latest observation by the schedule of each series, written with the arrivals.
CREATE TABLE sitemon.status(
    series integer PRIMARY KEY, slot bigint NOT NULL, verdict smallint NOT NULL, response_time_us bigint,
    lag_us bigint, status integer, causes text, record bytea NOT NULL) WITH (fillfactor = 60);

-- The blocks of an hour (of a day for intervals over a minute); `at` is the number of the hour or day since 1970.
-- Key: a site's span of time is read by it. Ranges of pages: a span of time of all sites.
-- `causes`: the lists of causes that its observations have, in the order of the block's own numbers; null: none has any.
CREATE TABLE sitemon.hour_blocks(
    series integer NOT NULL, at integer NOT NULL, count integer NOT NULL, data bytea NOT NULL, causes text[],
    PRIMARY KEY(series, at));
ALTER TABLE sitemon.hour_blocks ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX hour_blocks_at ON sitemon.hour_blocks USING brin(at) WITH (pages_per_range = 16, autosummarize = on);
CREATE TABLE sitemon.day_blocks(LIKE sitemon.hour_blocks INCLUDING STORAGE, PRIMARY KEY(series, at));
CREATE INDEX day_blocks_at ON sitemon.day_blocks USING brin(at) WITH (pages_per_range = 16, autosummarize = on);

-- What blocks have in common: the parts of observations that hardly change. id: hash of the bytes. `columns`: which
-- numbers an observation of this shape has, for `sitemon.unpack`.
CREATE TABLE sitemon.shapes(
    id bigint PRIMARY KEY, seen_day bigint NOT NULL, data bytea NOT NULL, columns smallint[] NOT NULL,
    interval_us bigint NOT NULL, timeout_us bigint NOT NULL, scheduled boolean NOT NULL);

-- Statistics of an hour, or a day, of a series; the same keys as of blocks, for the same reasons.
CREATE TABLE sitemon.hour_rollups(
    series integer NOT NULL, at integer NOT NULL, data bytea NOT NULL, PRIMARY KEY(series, at));
CREATE INDEX hour_rollups_at ON sitemon.hour_rollups USING brin(at) WITH (pages_per_range = 16, autosummarize = on);
CREATE TABLE sitemon.day_rollups(
    series integer NOT NULL, at integer NOT NULL, data bytea NOT NULL, PRIMARY KEY(series, at));
CREATE INDEX day_rollups_at ON sitemon.day_rollups USING brin(at) WITH (pages_per_range = 16, autosummarize = on);

-- The latest packed observation by the schedule of each series; reach_us is the longest that any of its verdicts held,
-- rolled the instant up to which its statistics are written.
CREATE TABLE sitemon.latest(
    series integer PRIMARY KEY, slot bigint NOT NULL, verdict smallint NOT NULL, held_until bigint NOT NULL,
    reach_us bigint NOT NULL, rolled bigint NOT NULL, record bytea NOT NULL);

CREATE TABLE sitemon.evidence(
    slot bigint NOT NULL, series integer NOT NULL, data bytea NOT NULL, PRIMARY KEY(slot, series));

-- Where the reading of each source goes on: written with the arrivals, or not at all.
CREATE TABLE sitemon.positions(source text PRIMARY KEY, next bigint NOT NULL);

CREATE TABLE sitemon.sites(
    name text PRIMARY KEY, origin text NOT NULL, url text NOT NULL, kind text NOT NULL, enabled boolean NOT NULL,
    interval_us bigint NOT NULL, labels jsonb NOT NULL, present boolean NOT NULL);

CREATE TABLE sitemon.runs(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, started bigint NOT NULL, location text NOT NULL,
    pid bigint NOT NULL, version text NOT NULL, alive_until bigint NOT NULL, ended text);
-- The runs of a span of time.
CREATE INDEX runs_by_time ON sitemon.runs(alive_until);

INSERT INTO sitemon.pieces VALUES (1);
CREATE TABLE sitemon.arrivals_1() INHERITS (sitemon.arrivals);
CREATE INDEX ON sitemon.arrivals_1 USING brin(slot) WITH (pages_per_range = 16, autosummarize = on);
