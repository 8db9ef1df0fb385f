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
    v record;
    reference bigint;
    number bigint;
    place integer := 1;
    places integer[] := '{}';
    highs bigint[] := '{}';
    left_over bigint;
    byte integer;
    shift integer;
    size integer;
    bits bit varying;
BEGIN
    v := sitemon.varint(data, at + 1);
    reference := sitemon.signed(v.value);
    next := v.next;
    IF excepted THEN
        v := sitemon.varint(data, next);
        left_over := v.value;
        next := v.next;
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
        -- As one number with so many bits, the last byte first, each of its columns is a string of bits. Of digits in
        -- reverse order the two of each byte are the wrong way round.
        size := (count * width + 7) / 8;
        bits := ('x' || reverse(encode(substring(data FROM next + 1 FOR size), 'hex')))::bit varying;
        bits := ((bits & ('x' || repeat('f0', size))::bit varying) >> 4)
                | ((bits & ('x' || repeat('0f', size))::bit varying) << 4);
        next := next + size;
        -- A set in the list of what is selected is not written down first, as one that is selected from is.
        SELECT array_agg(reference + substring(bits FROM p.place FOR width)::bigint) INTO numbers
          FROM (SELECT generate_series(8 * size - width + 1, 8 * size - count * width + 1, -width) AS place) p;
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
    v record;
    n record;
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
    v := sitemon.varint(data, at);
    count := v.value;
    at := v.next;
    IF count = 0 THEN
        RETURN;
    END IF;
    -- What was carried in.
    IF get_byte(data, at) = 1 THEN
        at := (sitemon.varint(data, at + 2)).next;
        at := (sitemon.varint(data, at)).next;
    ELSE
        at := at + 1;
    END IF;
    -- The dictionaries of parts; of shapes the ids, of the others only which one each observation has.
    parts := get_byte(data, at);
    at := at + 1;
    FOR part IN 0..6 LOOP
        CONTINUE WHEN parts >> part & 1 = 0;
        v := sitemon.varint(data, at);
        size := v.value;
        at := v.next;
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
            n := sitemon.numbers(data, at, count);
            indices := n.numbers;
            at := n.next;
            IF part = 0 THEN shapes := indices; ELSIF part = 1 THEN faults := indices; END IF;
        END IF;
    END LOOP;
    -- What is no number is passed over.
    v := sitemon.varint(data, at);
    size := v.value;
    at := v.next;
    IF size = 0 THEN
        at := (sitemon.varint(data, at)).next;
        v := sitemon.varint(data, at);
        size := v.value;
        at := v.next;
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
    n := sitemon.numbers(data, at, count);
    slots := n.numbers;
    at := n.next;
    FOR i IN 1..count LOOP
        expected := expected + slots[i];
        slots[i] := expected;
        expected := expected + intervals[CASE WHEN shapes IS NULL THEN 1 ELSE shapes[i] + 1 END];
    END LOOP;
    SELECT array_agg(DISTINCT c ORDER BY c) INTO columns
      FROM sitemon.shapes h, unnest(h.columns) c WHERE h.id = ANY(ids) AND c > 0;
    FOREACH col IN ARRAY columns LOOP
        IF shapes IS NULL THEN
            n := sitemon.numbers(data, at, count);
            dense := n.numbers;
            at := n.next;
        ELSE
            -- Only some may have it.
            SELECT array_agg((i.place - 1)::integer) INTO having_it
              FROM unnest(ids) WITH ORDINALITY AS i(id, place) JOIN sitemon.shapes h ON h.id = i.id
             WHERE col = ANY(h.columns);
            SELECT count(*) INTO uses FROM unnest(shapes) x WHERE x = ANY(having_it);
            n := sitemon.numbers(data, at, uses);
            found := n.numbers;
            at := n.next;
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
        SELECT o.slot, o.verdict::smallint, planned[coalesce(o.shape, 0) + 1], intervals[coalesce(o.shape, 0) + 1],
               timeouts[coalesce(o.shape, 0) + 1], o.lag,
               o.gap + coalesce(o.d, 0) + coalesce(o.c, 0) + coalesce(o.p, 0) + coalesce(o.t, 0) + coalesce(o.s, 0)
                     + coalesce(o.w, 0) + coalesce(o.r, 0),
               o.status::integer, o.wire, o.wire + o.decoded, o.d, o.c, o.p, o.t, o.s, o.w, o.r,
               nullif(lists[coalesce(o.fault, 0) + 1], '')
          FROM (SELECT unnest(slots) AS slot, unnest(verdicts) AS verdict, unnest(lags) AS lag, unnest(gaps) AS gap,
                       unnest(statuses) AS status, unnest(wires) AS wire, unnest(decodeds) AS decoded, unnest(dns) AS d,
                       unnest(connects) AS c, unnest(proxies) AS p, unnest(tlss) AS t, unnest(sends) AS s,
                       unnest(waits) AS w, unnest(receives) AS r, unnest(shapes) AS shape, unnest(faults) AS fault) o
         WHERE o.slot >= since AND o.slot < until;
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

-- The observations of one site (of all, where it is null) from one instant to before another. A block that is alone with
-- its series' span of time is opened, and that is all; where arrivals or another block have the same span, all of them
-- are merged as in the view. It is one query without settings of its own, so it becomes part of the query that asks.
CREATE FUNCTION sitemon.observations(name text, since timestamptz, until timestamptz)
RETURNS SETOF sitemon.observations LANGUAGE sql STABLE PARALLEL SAFE ROWS 6000 AS $$
    SELECT o.site, o.location, (sitemon.instant(o.slot) AT TIME ZONE 'UTC')::date, sitemon.instant(o.slot),
           sitemon.instant(o.slot + o.lag_us), CASE WHEN o.scheduled THEN 'schedule' ELSE 'request' END,
           (ARRAY['up', 'degraded', 'down', 'unknown'])[o.verdict + 1], string_to_array(o.causes, ','),
           o.response_time_us, o.status, o.wire_bytes, o.decoded_bytes, o.dns_us, o.connect_us, o.proxy_us, o.tls_us,
           o.send_us, o.wait_us, o.receive_us, o.interval_us, o.timeout_us
      FROM (
        SELECT s.site, s.location, u.*
          FROM sitemon.series s JOIN sitemon.hour_blocks b ON b.series = s.id
         CROSS JOIN LATERAL sitemon.unpack(b.at * 3600000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
         WHERE (name IS NULL OR s.site = name)
           AND b.at >= sitemon.micros(since) / 3600000000 AND b.at <= sitemon.micros(until) / 3600000000
           AND NOT EXISTS (SELECT FROM sitemon.arrivals a
                            WHERE a.series = b.series AND a.slot / 3600000000 = b.at
                              AND a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until))
           AND NOT EXISTS (SELECT FROM sitemon.day_blocks d WHERE d.series = b.series AND d.at = b.at / 24)
        UNION ALL
        SELECT s.site, s.location, u.*
          FROM sitemon.series s JOIN sitemon.day_blocks b ON b.series = s.id
         CROSS JOIN LATERAL sitemon.unpack(b.at * 86400000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
         WHERE (name IS NULL OR s.site = name)
           AND b.at >= sitemon.micros(since) / 86400000000 AND b.at <= sitemon.micros(until) / 86400000000
           AND NOT EXISTS (SELECT FROM sitemon.arrivals a
                            WHERE a.series = b.series AND a.slot / 86400000000 = b.at
                              AND a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until))
           AND NOT EXISTS (SELECT FROM sitemon.hour_blocks h
                            WHERE h.series = b.series AND h.at >= b.at * 24 AND h.at < (b.at + 1) * 24)
        UNION ALL
        (
          SELECT DISTINCT ON (s.site, s.location, m.slot) s.site, s.location, m.slot, m.verdict, m.scheduled, m.interval_us,
                 m.timeout_us, m.lag_us, m.response_time_us, m.status, m.wire_bytes, m.decoded_bytes, m.dns_us, m.connect_us,
                 m.proxy_us, m.tls_us, m.send_us, m.wait_us, m.receive_us, m.causes
            FROM sitemon.series s JOIN (
              SELECT a.series, a.slot, a.verdict, a.scheduled, a.interval_us, a.timeout_us, a.lag_us, a.response_time_us,
                     a.status, a.wire_bytes, a.decoded_bytes, a.dns_us, a.connect_us, a.proxy_us, a.tls_us, a.send_us,
                     a.wait_us, a.receive_us, a.causes
                FROM sitemon.arrivals a
               WHERE a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until)
                 AND NOT EXISTS (SELECT FROM sitemon.meta WHERE name = 'pruned' AND value > a.slot)
              UNION ALL
              SELECT b.series, u.*
                FROM sitemon.hour_blocks b
               CROSS JOIN LATERAL sitemon.unpack(b.at * 3600000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
               WHERE b.at >= sitemon.micros(since) / 3600000000 AND b.at <= sitemon.micros(until) / 3600000000
                 AND (EXISTS (SELECT FROM sitemon.arrivals a
                               WHERE a.series = b.series AND a.slot / 3600000000 = b.at
                                 AND a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until))
                      OR EXISTS (SELECT FROM sitemon.day_blocks d WHERE d.series = b.series AND d.at = b.at / 24))
              UNION ALL
              SELECT b.series, u.*
                FROM sitemon.day_blocks b
               CROSS JOIN LATERAL sitemon.unpack(b.at * 86400000000, b.data, b.causes, sitemon.micros(since), sitemon.micros(until)) u
               WHERE b.at >= sitemon.micros(since) / 86400000000 AND b.at <= sitemon.micros(until) / 86400000000
                 AND (EXISTS (SELECT FROM sitemon.arrivals a
                               WHERE a.series = b.series AND a.slot / 86400000000 = b.at
                                 AND a.slot >= sitemon.micros(since) AND a.slot < sitemon.micros(until))
                      OR EXISTS (SELECT FROM sitemon.hour_blocks h
                                  WHERE h.series = b.series AND h.at >= b.at * 24 AND h.at < (b.at + 1) * 24))
            ) m ON m.series = s.id
           WHERE name IS NULL OR s.site = name
           ORDER BY s.site, s.location, m.slot, m.verdict = 3, m.lag_us
        )
      ) o
$$;
