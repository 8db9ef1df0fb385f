-- A number of seven bits a byte, the low ones first, and where it ends.
CREATE FUNCTION sitemon.varint(data bytea, at integer, OUT value bigint, OUT next integer)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    byte integer := get_byte(data, at);
    shift integer := 7;
BEGIN
    value := byte & 127;
    next := at + 1;
    WHILE byte > 127 LOOP
        byte := get_byte(data, next);
        value := value | ((byte & 127)::bigint << shift);
        shift := shift + 7;
        next := next + 1;
    END LOOP;
END $$;

-- The number with a sign that such a number stands for.
CREATE FUNCTION sitemon.signed(value bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ((value >> 1) & 9223372036854775807) # -(value & 1)
$$;

-- A column of a block: numbers by frame of reference with exceptions, and where it ends. Byte: width in bits, and 128
-- where there are exceptions; the reference; the exceptions; then the low bits of each number's difference to the
-- reference, the first bit the lowest.
CREATE FUNCTION sitemon.numbers(data bytea, at integer, count integer, OUT numbers bigint[], OUT next integer)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    width integer := get_byte(data, at) & 127;
    excepted boolean := get_byte(data, at) > 127;
    reference bigint;
    number bigint;
    place integer := 1;
    places integer[] := '{}';
    highs bigint[] := '{}';
    left_over bigint;
    byte integer;
    shift integer;
    bits bytea;
    mask bigint;
BEGIN
    SELECT sitemon.signed(v.value), v.next INTO reference, next FROM sitemon.varint(data, at + 1) v;
    IF excepted THEN
        SELECT v.value, v.next INTO left_over, next FROM sitemon.varint(data, next) v;
        -- Two numbers for each, read here: a call for each byte of them would cost more than all the rest.
        WHILE left_over > 0 LOOP
            byte := get_byte(data, next);
            next := next + 1;
            place := place + (byte & 127);
            shift := 7;
            WHILE byte > 127 LOOP
                byte := get_byte(data, next);
                next := next + 1;
                place := place + ((byte & 127) << shift);
                shift := shift + 7;
            END LOOP;
            byte := get_byte(data, next);
            next := next + 1;
            number := byte & 127;
            shift := 7;
            WHILE byte > 127 LOOP
                byte := get_byte(data, next);
                next := next + 1;
                number := number | ((byte & 127)::bigint << shift);
                shift := shift + 7;
            END LOOP;
            places := places || place;
            highs := highs || ((((number >> 1) & 9223372036854775807) # -(number & 1)) << width);
            left_over := left_over - 1;
        END LOOP;
    END IF;
    IF width = 0 THEN
        numbers := array_fill(reference, ARRAY[count]);
    ELSE
        -- With room behind, so that whole windows of bytes can be looked at.
        bits := substring(data FROM next + 1 FOR (count * width + 7) / 8) || '\x000000000000000000'::bytea;
        next := next + (count * width + 7) / 8;
        mask := CASE WHEN width = 64 THEN -1 ELSE (1::bigint << width) - 1 END;
        IF width <= 9 THEN
            SELECT array_agg(reference + (((get_byte(bits, b >> 3) | (get_byte(bits, (b >> 3) + 1) << 8)) >> (b & 7)) & mask))
              INTO numbers FROM generate_series(0, (count - 1) * width, width) b;
        ELSIF width <= 17 THEN
            SELECT array_agg(reference + (((get_byte(bits, b >> 3) | (get_byte(bits, (b >> 3) + 1) << 8)
                                           | (get_byte(bits, (b >> 3) + 2) << 16)) >> (b & 7)) & mask))
              INTO numbers FROM generate_series(0, (count - 1) * width, width) b;
        ELSIF width <= 25 THEN
            SELECT array_agg(reference + (((get_byte(bits, b >> 3) | (get_byte(bits, (b >> 3) + 1) << 8)
                                           | (get_byte(bits, (b >> 3) + 2) << 16)
                                           | (get_byte(bits, (b >> 3) + 3)::bigint << 24)) >> (b & 7)) & mask))
              INTO numbers FROM generate_series(0, (count - 1) * width, width) b;
        ELSE
            -- Eight bytes, less the bits before, and of the ninth what is missing.
            SELECT array_agg(reference + (mask & (
                       CASE WHEN b & 7 = 0 THEN w.word
                            ELSE (w.word >> (b & 7)) & ((1::bigint << (64 - (b & 7))) - 1)
                                 | (get_byte(bits, (b >> 3) + 8)::bigint << (64 - (b & 7))) END)) ORDER BY b)
              INTO numbers
              FROM generate_series(0, (count - 1) * width, width) b,
                   LATERAL (SELECT get_byte(bits, b >> 3)::bigint | (get_byte(bits, (b >> 3) + 1)::bigint << 8)
                                 | (get_byte(bits, (b >> 3) + 2)::bigint << 16) | (get_byte(bits, (b >> 3) + 3)::bigint << 24)
                                 | (get_byte(bits, (b >> 3) + 4)::bigint << 32) | (get_byte(bits, (b >> 3) + 5)::bigint << 40)
                                 | (get_byte(bits, (b >> 3) + 6)::bigint << 48)
                                 | (get_byte(bits, (b >> 3) + 7)::bigint << 56) AS word) w;
        END IF;
    END IF;
    FOR i IN 1..cardinality(places) LOOP
        numbers[places[i]] := numbers[places[i]] + highs[i];
    END LOOP;
END $$;

-- Two columns added; what one lacks, the other has.
CREATE FUNCTION sitemon.plus(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN a IS NULL THEN b
                ELSE (SELECT array_agg(coalesce(x + y, x, y) ORDER BY place)
                        FROM unnest(a, b) WITH ORDINALITY AS t(x, y, place)) END
$$;

-- The observations of a block whose slot lies from one instant to before another, all in microseconds since 1970 or
-- as durations in microseconds; `start` is where the block's span begins. Phases are those of all hops together.
-- Its layout stands in the sources, in crates/store/src/block.
CREATE FUNCTION sitemon.unpack(start bigint, data bytea, lists text[], since bigint, until bigint)
RETURNS TABLE(slot bigint, verdict smallint, scheduled boolean, interval_us bigint, timeout_us bigint, lag_us bigint,
    response_time_us bigint, status integer, wire_bytes bigint, decoded_bytes bigint, dns_us bigint, connect_us bigint,
    proxy_us bigint, tls_us bigint, send_us bigint, wait_us bigint, receive_us bigint, causes text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 240 AS $$
DECLARE
    at integer := 1;
    count integer;
    size integer;
    parts integer;
    ids bigint[] := '{}';
    id bigint;
    shapes integer[];           -- which shape each observation has, from 0
    faults integer[];           -- which list of causes
    indices bigint[];
    slots bigint[];
    expected bigint := start;
    s record;
    intervals bigint[];
    timeouts bigint[];
    planned boolean[];
    columns smallint[];         -- all that any shape has
    having_it integer[];        -- the shapes that have a column
    uses integer;
    found bigint[];
    dense bigint[];
    col integer;
    verdicts bigint[]; lags bigint[]; gaps bigint[]; statuses bigint[]; wires bigint[]; decodeds bigint[];
    dns bigint[]; connects bigint[]; proxies bigint[]; tlss bigint[]; sends bigint[]; waits bigint[]; receives bigint[];
BEGIN
    -- Whole in memory, once.
    data := substring(data FROM 1);
    IF get_byte(data, 0) <> 1 THEN
        RAISE EXCEPTION 'a block of layout %, which this function does not know', get_byte(data, 0);
    END IF;
    SELECT v.value, v.next INTO count, at FROM sitemon.varint(data, at) v;
    IF count = 0 THEN
        RETURN;
    END IF;
    -- What was carried in.
    IF get_byte(data, at) = 1 THEN
        SELECT v.next INTO at FROM sitemon.varint(data, at + 2) v;
        SELECT v.next INTO at FROM sitemon.varint(data, at) v;
    ELSE
        at := at + 1;
    END IF;
    -- The dictionaries of parts; of shapes the ids, of the others only which one each observation has.
    parts := get_byte(data, at);
    at := at + 1;
    FOR part IN 0..6 LOOP
        CONTINUE WHEN parts >> part & 1 = 0;
        SELECT v.value, v.next INTO size, at FROM sitemon.varint(data, at) v;
        IF part = 0 THEN
            FOR i IN 1..size LOOP
                IF get_byte(data, at) <> 0 THEN
                    RAISE EXCEPTION 'a shape that only the program can read';
                END IF;
                id := 0;
                FOR b IN REVERSE 8..1 LOOP
                    id := id << 8 | get_byte(data, at + b);
                END LOOP;
                ids := ids || id;
                at := at + 9;
            END LOOP;
        END IF;
        IF size > 1 THEN
            SELECT n.numbers, n.next INTO indices, at FROM sitemon.numbers(data, at, count) n;
            IF part = 0 THEN shapes := indices; ELSIF part = 1 THEN faults := indices; END IF;
        END IF;
    END LOOP;
    -- What is no number is passed over.
    SELECT v.value, v.next INTO size, at FROM sitemon.varint(data, at) v;
    IF size = 0 THEN
        SELECT v.next INTO at FROM sitemon.varint(data, at) v;
        SELECT v.value, v.next INTO size, at FROM sitemon.varint(data, at) v;
        at := at + size;
    ELSE
        at := at + size - 1;
    END IF;
    SELECT array_agg(h.interval_us ORDER BY i.place) AS intervals, array_agg(h.timeout_us ORDER BY i.place) AS timeouts,
           array_agg(h.scheduled ORDER BY i.place) AS planned
      INTO s FROM unnest(ids) WITH ORDINALITY AS i(id, place) JOIN sitemon.shapes h ON h.id = i.id;
    intervals := s.intervals;
    timeouts := s.timeouts;
    planned := s.planned;
    IF cardinality(intervals) IS DISTINCT FROM cardinality(ids) THEN
        RAISE EXCEPTION 'a shape of a block is missing';
    END IF;
    SELECT n.numbers, n.next INTO slots, at FROM sitemon.numbers(data, at, count) n;
    FOR i IN 1..count LOOP
        expected := expected + slots[i];
        slots[i] := expected;
        expected := expected + intervals[CASE WHEN shapes IS NULL THEN 1 ELSE shapes[i] + 1 END];
    END LOOP;
    SELECT array_agg(DISTINCT c ORDER BY c) INTO columns
      FROM sitemon.shapes h, unnest(h.columns) c WHERE h.id = ANY(ids) AND c > 0;
    FOREACH col IN ARRAY columns LOOP
        IF shapes IS NULL THEN
            SELECT n.numbers, n.next INTO dense, at FROM sitemon.numbers(data, at, count) n;
        ELSE
            -- Only some may have it.
            SELECT array_agg((i.place - 1)::integer) INTO having_it
              FROM unnest(ids) WITH ORDINALITY AS i(id, place) JOIN sitemon.shapes h ON h.id = i.id
             WHERE col = ANY(h.columns);
            SELECT count(*) INTO uses FROM unnest(shapes) x WHERE x = ANY(having_it);
            SELECT n.numbers, n.next INTO found, at FROM sitemon.numbers(data, at, uses) n;
            IF uses = count THEN
                dense := found;
            ELSE
                SELECT array_agg(CASE WHEN h.has THEN found[h.number] END ORDER BY h.i) INTO dense
                  FROM (SELECT o.i, x = ANY(having_it) AS has,
                               count(*) FILTER (WHERE x = ANY(having_it)) OVER (ORDER BY o.i) AS number
                          FROM unnest(shapes) WITH ORDINALITY AS o(x, i)) h;
            END IF;
        END IF;
        CASE col
            WHEN 1 THEN verdicts := dense;
            WHEN 2 THEN lags := dense;
            WHEN 3 THEN gaps := dense;
            WHEN 4 THEN statuses := dense;
            WHEN 5 THEN wires := dense;
            WHEN 6 THEN decodeds := dense;
            ELSE
                -- Eight numbers for each hop, in the order of its phases.
                CASE col & 7
                    WHEN 0 THEN dns := sitemon.plus(dns, dense);
                    WHEN 1 THEN connects := sitemon.plus(connects, dense);
                    WHEN 2 THEN proxies := sitemon.plus(proxies, dense);
                    WHEN 3 THEN tlss := sitemon.plus(tlss, dense);
                    WHEN 4 THEN sends := sitemon.plus(sends, dense);
                    WHEN 5 THEN waits := sitemon.plus(waits, dense);
                    WHEN 6 THEN receives := sitemon.plus(receives, dense);
                    ELSE NULL;
                END CASE;
        END CASE;
    END LOOP;
    RETURN QUERY
        SELECT n.slot, n.verdict::smallint, planned[k.shape], intervals[k.shape], timeouts[k.shape], n.lag,
               n.gap + coalesce(n.d, 0) + coalesce(n.c, 0) + coalesce(n.p, 0) + coalesce(n.t, 0) + coalesce(n.s, 0)
                     + coalesce(n.w, 0) + coalesce(n.r, 0),
               n.status::integer, n.wire, n.wire + n.decoded, n.d, n.c, n.p, n.t, n.s, n.w, n.r,
               nullif(lists[coalesce(faults[n.i], 0) + 1], '')
          FROM unnest(slots, verdicts, lags, gaps, statuses, wires, decodeds, dns, connects, proxies, tlss, sends, waits,
                      receives) WITH ORDINALITY
                 AS n(slot, verdict, lag, gap, status, wire, decoded, d, c, p, t, s, w, r, i),
               LATERAL (SELECT CASE WHEN shapes IS NULL THEN 1 ELSE shapes[n.i] + 1 END AS shape) k
         WHERE n.slot >= since AND n.slot < until;
END $$;

-- Microseconds since 1970 as a time, and back.
CREATE FUNCTION sitemon.instant(us bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT timestamptz '1970-01-01 00:00:00Z' + us * interval '1 microsecond'
$$;
CREATE FUNCTION sitemon.micros(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM at) * 1000000)::bigint
$$;

-- All observations, with `day`: filtered by it (and by site) blocks are not even opened. For a span of time the function
-- of the same name reads less. Of several of one slot the one that the program keeps is shown.
CREATE VIEW sitemon.observations AS
    SELECT DISTINCT ON (o.site, o.location, o.day, o.scheduled_at)
           o.site, o.location, o.day, o.scheduled_at, o.started_at, o.reason, o.verdict, o.causes, o.response_time_us,
           o.status, o.wire_bytes, o.decoded_bytes, o.dns_us, o.connect_us, o.proxy_us, o.tls_us, o.send_us, o.wait_us,
           o.receive_us, o.interval_us, o.timeout_us
      FROM (
        SELECT s.site, s.location, b.day, sitemon.instant(u.slot) AS scheduled_at,
               sitemon.instant(u.slot + u.lag_us) AS started_at,
               CASE WHEN u.scheduled THEN 'schedule' ELSE 'request' END AS reason,
               (ARRAY['up', 'degraded', 'down', 'unknown'])[u.verdict + 1] AS verdict,
               string_to_array(u.causes, ',') AS causes,
               u.response_time_us, u.status, u.wire_bytes, u.decoded_bytes, u.dns_us, u.connect_us, u.proxy_us, u.tls_us,
               u.send_us, u.wait_us, u.receive_us, u.interval_us, u.timeout_us
          FROM sitemon.series s
          JOIN (SELECT series, date '1970-01-01' + floor(at / 24.0)::integer AS day, at * 3600000000 AS start, data, causes
                  FROM sitemon.hour_blocks
                UNION ALL
                SELECT series, date '1970-01-01' + at, at * 86400000000, data, causes FROM sitemon.day_blocks) b
            ON b.series = s.id
         CROSS JOIN LATERAL sitemon.unpack(b.start, b.data, b.causes, b.start, b.start + 86400000000) u
        UNION ALL
        SELECT s.site, s.location, (sitemon.instant(a.slot) AT TIME ZONE 'UTC')::date, sitemon.instant(a.slot),
               sitemon.instant(a.slot + a.lag_us), CASE WHEN a.scheduled THEN 'schedule' ELSE 'request' END,
               (ARRAY['up', 'degraded', 'down', 'unknown'])[a.verdict + 1], string_to_array(a.causes, ','),
               a.response_time_us, a.status, a.wire_bytes, a.decoded_bytes, a.dns_us, a.connect_us, a.proxy_us, a.tls_us,
               a.send_us, a.wait_us, a.receive_us, a.interval_us, a.timeout_us
          FROM sitemon.arrivals a JOIN sitemon.series s ON s.id = a.series
         WHERE a.slot >= coalesce((SELECT value FROM sitemon.meta WHERE name = 'pruned'), a.slot)
      ) o
     ORDER BY o.site, o.location, o.day, o.scheduled_at, o.verdict = 'unknown', o.started_at;

-- The observations of one site (of all, where it is null) from one instant to before another.
CREATE FUNCTION sitemon.observations(name text, since timestamptz, until timestamptz)
RETURNS SETOF sitemon.observations LANGUAGE sql STABLE PARALLEL SAFE ROWS 6000 SET work_mem = '64MB' AS $$
    WITH wanted AS MATERIALIZED (
        SELECT id, site, location FROM sitemon.series s WHERE name IS NULL OR s.site = name
    ), found AS (
        SELECT w.id, u.* FROM wanted w
          JOIN sitemon.hour_blocks b ON b.series = w.id
               AND b.at >= floor(sitemon.micros(since) / 3600000000.0)::integer
               AND b.at <= floor(sitemon.micros(until) / 3600000000.0)::integer
         CROSS JOIN LATERAL sitemon.unpack(b.at * 3600000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
        UNION ALL
        SELECT w.id, u.* FROM wanted w
          JOIN sitemon.day_blocks b ON b.series = w.id
               AND b.at >= floor(sitemon.micros(since) / 86400000000.0)::integer
               AND b.at <= floor(sitemon.micros(until) / 86400000000.0)::integer
         CROSS JOIN LATERAL sitemon.unpack(b.at * 86400000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
        UNION ALL
        SELECT a.series, a.slot, a.verdict, a.scheduled, a.interval_us, a.timeout_us, a.lag_us, a.response_time_us, a.status,
               a.wire_bytes, a.decoded_bytes, a.dns_us, a.connect_us, a.proxy_us, a.tls_us, a.send_us, a.wait_us,
               a.receive_us, a.causes
          FROM sitemon.arrivals a
         WHERE a.series IN (SELECT id FROM wanted) AND a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until)
           AND a.slot >= coalesce((SELECT value FROM sitemon.meta WHERE name = 'pruned'), a.slot)
    ), kept AS (
        SELECT DISTINCT ON (id, slot) * FROM found
         ORDER BY id, slot, verdict = 3, lag_us
    )
    SELECT w.site, w.location, (sitemon.instant(k.slot) AT TIME ZONE 'UTC')::date, sitemon.instant(k.slot),
           sitemon.instant(k.slot + k.lag_us), CASE WHEN k.scheduled THEN 'schedule' ELSE 'request' END,
           (ARRAY['up', 'degraded', 'down', 'unknown'])[k.verdict + 1], string_to_array(k.causes, ','),
           k.response_time_us, k.status, k.wire_bytes, k.decoded_bytes, k.dns_us, k.connect_us, k.proxy_us, k.tls_us,
           k.send_us, k.wait_us, k.receive_us, k.interval_us, k.timeout_us
      FROM kept k JOIN wanted w ON w.id = k.id
$$;
