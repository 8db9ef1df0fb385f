//! The one path of observations into the database: binary COPY into the newest piece of arrivals, with the latest
//! status of each series and the position of the source, in one transaction.

use super::session::{Error, Pool, Session};
use super::{name_of, schema};
use crate::record::Parts;
use crate::tables::goes_before;
use crate::tables::span::SERIES_MAX;
use crate::{Advance, StoreError};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use sitemon_model::timeline::Phase;
use sitemon_model::{Observation, Reason};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

/// Bytes of arrivals that are handed to the connection at once.
const PIECE_BYTES: usize = 256 << 10;
/// How often a transaction begins anew because the piece that it wrote to was closed meanwhile.
const ATTEMPTS: usize = 5;
/// The columns of an arrival, in the order in which [`Rows::add`] writes them.
const COLUMNS: &str = "slot, series, verdict, scheduled, interval_us, timeout_us, lag_us, response_time_us, status, \
                       wire_bytes, decoded_bytes, dns_us, connect_us, proxy_us, tls_us, send_us, wait_us, receive_us, \
                       causes, record";
/// How many they are.
const COLUMN_COUNT: i16 = 20;

/// What appending remembers.
#[derive(Debug, Default)]
pub(super) struct Writer {
    session: Option<Session>,
    /// The ids of site and location, as far as they were met.
    series: HashMap<Arc<str>, Vec<(Arc<str>, i32)>>,
    /// The newest piece of arrivals, as far as is known.
    piece: i32,
    parts: Parts,
    record: Vec<u8>,
}

/// How an attempt ended.
enum Attempt {
    Done,
    /// The piece is no longer the newest.
    Moved,
}

impl Writer {
    /// See [`crate::Store::append`].
    pub(super) async fn append(
        &mut self,
        pool: &Pool,
        batch: &[Arc<Observation>],
        advance: Option<&Advance>,
    ) -> Result<(), StoreError> {
        let done = self.try_append(pool, batch, advance).await;
        if done.is_err() {
            // What was begun is undone with the connection.
            self.session = None;
        }
        done.map_err(|error| error.of(name_of(pool)))
    }

    async fn try_append(
        &mut self,
        pool: &Pool,
        batch: &[Arc<Observation>],
        advance: Option<&Advance>,
    ) -> Result<(), Error> {
        let known = self.session.take().filter(|session| !session.client.is_closed());
        let session = if let Some(session) = known {
            session
        } else {
            let session = pool.get().await?;
            schema::check(schema::version(&session).await?, name_of(pool))?;
            session
        };
        let ids = self.ids(&session, batch).await?;
        let rows = self.rows(batch, &ids);
        for _ in 0..ATTEMPTS {
            match self.attempt(&session, batch, &ids, &rows, advance).await {
                Ok(Attempt::Done) => {
                    self.session = Some(session);
                    return Ok(());
                }
                Ok(Attempt::Moved) => {}
                // It was packed and dropped meanwhile.
                Err(error) if error.is_of_a_missing_table() => {}
                Err(error) => return Err(error),
            }
            session.batch("ROLLBACK").await?;
            let newest = session.first("SELECT max(id) FROM sitemon.pieces", &[]).await?;
            let newest: Option<i32> = newest.and_then(|row| row.get(0));
            self.piece = newest.ok_or(Error::Damaged("the list of pieces"))?;
        }
        Err(StoreError::Unavailable(format!("{}: arrivals are being packed", name_of(pool))).into())
    }

    async fn attempt(
        &self,
        session: &Session,
        batch: &[Arc<Observation>],
        ids: &[i32],
        rows: &[Bytes],
        advance: Option<&Advance>,
    ) -> Result<Attempt, Error> {
        let piece = self.piece;
        // Locked, it cannot be closed; looked at after that, it was not before either.
        session.batch(&format!("BEGIN; LOCK TABLE sitemon.arrivals_{piece} IN ROW EXCLUSIVE MODE")).await?;
        let newest = session.first("SELECT max(id) FROM sitemon.pieces", &[]).await?;
        if newest.and_then(|row| row.get::<_, Option<i32>>(0)) != Some(piece) {
            return Ok(Attempt::Moved);
        }
        if let Some(advance) = advance {
            move_position(session, advance).await?;
        }
        if let (Some(first), Some(last)) =
            (batch.iter().map(|o| o.scheduled_at.0).min(), batch.iter().map(|o| o.scheduled_at.0).max())
        {
            let copy = format!("COPY sitemon.arrivals_{piece}({COLUMNS}) FROM STDIN BINARY");
            let copy = session.prepared(&copy).await?;
            let mut sink = pin!(session.client.copy_in::<_, Bytes>(&copy).await?);
            for rows in rows {
                sink.send(rows.clone()).await?;
            }
            sink.as_mut().finish().await?;
            let sql = "INSERT INTO sitemon.batches(piece, count, first_slot, last_slot) VALUES($1, $2, $3, $4)";
            session.execute(sql, &[&piece, &(batch.len() as i64), &first, &last]).await?;
            save_status(session, batch, ids).await?;
        }
        session.batch("COMMIT").await?;
        Ok(Attempt::Done)
    }

    /// The ids of the series of a batch; those that were never seen are made.
    async fn ids(&mut self, session: &Session, batch: &[Arc<Observation>]) -> Result<Vec<i32>, Error> {
        let find = |series: &HashMap<Arc<str>, Vec<(Arc<str>, i32)>>, o: &Observation| {
            let locations = series.get(&o.site)?;
            locations.iter().find(|(location, _)| *location == o.location).map(|(_, id)| *id)
        };
        let mut unknown: Vec<(&str, &str)> =
            batch.iter().filter(|o| find(&self.series, o).is_none()).map(|o| (&*o.site, &*o.location)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let (sites, locations): (Vec<&str>, Vec<&str>) = unknown.into_iter().unzip();
            // Looked up first: a series that is there would use up an id all the same.
            let insert = "INSERT INTO sitemon.series(site, location)
                          SELECT site, location FROM unnest($1::text[], $2::text[]) AS n(site, location)
                          WHERE NOT EXISTS (SELECT FROM sitemon.series s
                                            WHERE s.site = n.site AND s.location = n.location)
                          ORDER BY site, location ON CONFLICT DO NOTHING";
            session.execute(insert, &[&sites, &locations]).await?;
            let select = "SELECT s.site, s.location, s.id FROM sitemon.series s
                          JOIN unnest($1::text[], $2::text[]) AS n(site, location)
                            ON s.site = n.site AND s.location = n.location";
            for row in session.query(select, &[&sites, &locations]).await? {
                let (site, location, id): (&str, &str, i32) = (row.get(0), row.get(1), row.get(2));
                if i64::from(id) > SERIES_MAX {
                    let told = format!("no more than {SERIES_MAX} pairs of site and location can be stored");
                    return Err(StoreError::Unusable(told).into());
                }
                self.series.entry(site.into()).or_default().push((location.into(), id));
            }
        }
        batch.iter().map(|o| find(&self.series, o).ok_or(Error::Damaged("the table of series"))).collect()
    }

    /// The bytes of a binary COPY: <https://www.postgresql.org/docs/current/sql-copy.html>.
    fn rows(&mut self, batch: &[Arc<Observation>], ids: &[i32]) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut rows = Rows(BytesMut::with_capacity(PIECE_BYTES + 4096));
        rows.0.put_slice(b"PGCOPY\n\xff\r\n\0");
        rows.0.put_u64(0);
        for (observation, id) in batch.iter().zip(ids) {
            self.parts.fill(observation);
            self.record.clear();
            self.parts.write(&mut self.record);
            rows.add(observation, *id, &self.record);
            if rows.0.len() >= PIECE_BYTES {
                pieces.push(rows.0.split().freeze());
            }
        }
        rows.0.put_i16(-1);
        pieces.push(rows.0.freeze());
        pieces
    }
}

/// Rows as COPY takes them.
struct Rows(BytesMut);

impl Rows {
    fn add(&mut self, o: &Observation, series: i32, record: &[u8]) {
        self.0.put_i16(COLUMN_COUNT);
        self.bigint(Some(o.scheduled_at.0));
        self.integer(Some(series));
        self.0.put_i32(2);
        self.0.put_i16(o.verdict.number().into());
        self.0.put_i32(1);
        self.0.put_u8((o.reason == Reason::Schedule).into());
        self.bigint(Some(o.interval_us as i64));
        self.bigint(Some(o.timeout_us as i64));
        self.bigint(lag(o));
        self.bigint(o.response_time_us.map(|us| us as i64));
        self.integer(o.status.map(i32::from));
        self.bigint(o.body.map(|body| body.wire_bytes as i64));
        self.bigint(o.body.map(|body| body.decoded_bytes as i64));
        for phase in Phase::ALL {
            let times = o.hops.iter().filter_map(|hop| hop.phases.get(phase));
            let sum = times.map(|time| time.us).reduce(u64::wrapping_add);
            self.bigint(sum.map(|us| us as i64));
        }
        match causes(o) {
            Some(causes) => self.bytes(causes.as_bytes()),
            None => self.0.put_i32(-1),
        }
        self.bytes(record);
    }

    fn bigint(&mut self, value: Option<i64>) {
        match value {
            Some(value) => {
                self.0.put_i32(8);
                self.0.put_i64(value);
            }
            None => self.0.put_i32(-1),
        }
    }

    fn integer(&mut self, value: Option<i32>) {
        match value {
            Some(value) => {
                self.0.put_i32(4);
                self.0.put_i32(value);
            }
            None => self.0.put_i32(-1),
        }
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.put_i32(value.len() as i32);
        self.0.put_slice(value);
    }
}

fn lag(o: &Observation) -> Option<i64> {
    o.started_at.map(|started| started.0.wrapping_sub(o.scheduled_at.0))
}

/// The codes of its causes, `http.status,body.size`; `None` where there are none.
fn causes(o: &Observation) -> Option<String> {
    join(o.verdict.causes())
}

/// The codes of causes with commas between them; `None` where there are none.
pub(super) fn join(causes: &[sitemon_model::Cause]) -> Option<String> {
    let codes: Vec<String> = causes.iter().map(|cause| cause.code.to_string()).collect();
    (!codes.is_empty()).then(|| codes.join(","))
}

/// Moves the position of a source, where it stands as expected; of several who try at once one succeeds.
async fn move_position(session: &Session, advance: &Advance) -> Result<(), Error> {
    let Advance { source, expected, next } = advance;
    let (from, to) = (*expected as i64, *next as i64);
    let sql = if from == 0 {
        "INSERT INTO sitemon.positions AS p(source, next) VALUES($1, $3)
         ON CONFLICT(source) DO UPDATE SET next = excluded.next WHERE p.next = $2"
    } else {
        "UPDATE sitemon.positions SET next = $3 WHERE source = $1 AND next = $2"
    };
    if session.execute(sql, &[source, &from, &to]).await? == 1 {
        return Ok(());
    }
    let found = position(session, source).await?;
    Err(StoreError::Fenced { source_name: source.clone(), expected: *expected, found }.into())
}

/// Where the reading of a source goes on.
pub(super) async fn position(session: &Session, source: &str) -> Result<u64, Error> {
    let row = session.first("SELECT next FROM sitemon.positions WHERE source = $1", &[&source]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
}

/// Brings the latest status up to date: the later slot, and of two of one slot the one that is kept elsewhere too,
/// but that where both began in the same microsecond the smaller record decides.
async fn save_status(session: &Session, batch: &[Arc<Observation>], ids: &[i32]) -> Result<(), Error> {
    let mut latest: HashMap<i32, &Observation> = HashMap::new();
    for (observation, id) in batch.iter().zip(ids).filter(|(o, _)| o.reason == Reason::Schedule) {
        let known = latest.entry(*id).or_insert(observation);
        let later = known.scheduled_at < observation.scheduled_at;
        if later || known.scheduled_at == observation.scheduled_at && goes_before(observation, known).is_lt() {
            *known = observation;
        }
    }
    // In one order, so that two writers do not wait for each other.
    let mut latest: Vec<(i32, &Observation)> = latest.into_iter().collect();
    latest.sort_unstable_by_key(|(id, _)| *id);
    let all = || latest.iter().map(|(_, observation)| *observation);
    let series: Vec<i32> = latest.iter().map(|(id, _)| *id).collect();
    let slots: Vec<i64> = all().map(|o| o.scheduled_at.0).collect();
    let verdicts: Vec<i16> = all().map(|o| o.verdict.number().into()).collect();
    let responses: Vec<Option<i64>> = all().map(|o| o.response_time_us.map(|us| us as i64)).collect();
    let lags: Vec<Option<i64>> = all().map(lag).collect();
    let statuses: Vec<Option<i32>> = all().map(|o| o.status.map(i32::from)).collect();
    let causes: Vec<Option<String>> = all().map(causes).collect();
    let records: Vec<Vec<u8>> = all().map(crate::record::to_bytes).collect();
    let sql = "INSERT INTO sitemon.status AS s(series, slot, verdict, response_time_us, lag_us, status, causes, record)
        SELECT * FROM unnest($1::integer[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::integer[],
                             $7::text[], $8::bytea[])
        ON CONFLICT(series) DO UPDATE SET slot = excluded.slot, verdict = excluded.verdict,
            response_time_us = excluded.response_time_us, lag_us = excluded.lag_us, status = excluded.status,
            causes = excluded.causes, record = excluded.record
        WHERE excluded.slot > s.slot OR excluded.slot = s.slot
            AND ((excluded.verdict = 3)::integer, coalesce(excluded.lag_us, 9223372036854775807), excluded.record)
              < ((s.verdict = 3)::integer, coalesce(s.lag_us, 9223372036854775807), s.record)";
    session.execute(sql, &[&series, &slots, &verdicts, &responses, &lags, &statuses, &causes, &records]).await?;
    Ok(())
}
