-- Records of many nodes, one chain a node, and what is found in them.
--
-- Who may what is said here and nowhere else. Three roles without login; login roles are made members of them:
--   lockgate_agent     adds records of its own node, reads those and nothing else
--   lockgate_console   reads every node's
--   lockgate_auditor   reads every node's
-- The role that runs the migrations owns everything. Row-level security is forced on it too; policies of its own let it through.

DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['lockgate_agent', 'lockgate_console', 'lockgate_auditor']::name[] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION
            -- Roles belong to the whole cluster: another database's migration may have made it just now.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA lockgate TO lockgate_agent, lockgate_console, lockgate_auditor;
GRANT SELECT ON lockgate.migration TO lockgate_agent, lockgate_console, lockgate_auditor;

-- Which login role writes as which node.
CREATE TABLE lockgate.node (
    node text PRIMARY KEY CHECK (node ~ '^[A-Za-z0-9._-]{1,64}$'),
    role name NOT NULL UNIQUE,
    enrolled_at timestamptz NOT NULL DEFAULT now()
);

-- The node of whoever is logged in. The session's user, not the current one: SET ROLE changes nothing, and neither does
-- being called by a function of somebody else.
CREATE FUNCTION lockgate.own_node() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT node FROM lockgate.node WHERE role = session_user $$;

-- The last record of each chain. Only the trigger below moves it.
CREATE TABLE lockgate.chain (
    node text PRIMARY KEY REFERENCES lockgate.node,
    seq bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
    hash bytea NOT NULL DEFAULT pg_catalog.decode(pg_catalog.repeat('00', 32), 'hex') CHECK (pg_catalog.length(hash) = 32),
    moved_at timestamptz NOT NULL DEFAULT now()
);

-- In which order records arrived, over all nodes: pages of a search go back by it.
CREATE SEQUENCE lockgate.arrival;

CREATE TABLE lockgate.record (
    node text NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    arrival bigint NOT NULL DEFAULT pg_catalog.nextval('lockgate.arrival'::regclass),
    session text,
    -- What it means for its session: 0 nothing, 1 it began, 2 allowed, 3 denied, 4 held, 5 refused later, 6 it ended.
    fact smallint NOT NULL,
    -- Of 1 and 6: how.
    detail jsonb,
    -- Words and filters that it is found by; none when records of its kind are not searched.
    words tsvector,
    -- The canonical bytes: all that is believed.
    line bytea NOT NULL,
    hash bytea NOT NULL GENERATED ALWAYS AS
        (pg_catalog.sha256('\x6c6f636b676174652f61756469742f7265636f72642f763100'::bytea OPERATOR(pg_catalog.||) line)) STORED,
    PRIMARY KEY (node, seq, at)
) PARTITION BY RANGE (at);

CREATE INDEX record_session ON lockgate.record (session, seq) WHERE session IS NOT NULL;
CREATE INDEX record_arrival ON lockgate.record (arrival DESC) WHERE words IS NOT NULL;
CREATE INDEX record_words ON lockgate.record USING gin (words);

-- What fits no week that was made ready: clocks that are off, logs of years ago.
CREATE TABLE lockgate.record_rest PARTITION OF lockgate.record DEFAULT;

-- The partition of a week, made unless it is there. What lies in the default partition moves into it.
CREATE FUNCTION lockgate.make_week(moment timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    week timestamp := date_trunc('week', moment AT TIME ZONE 'UTC');
    first timestamptz := week AT TIME ZONE 'UTC';
    next timestamptz := (week + interval '7 days') AT TIME ZONE 'UTC';
    part text := 'record_' || to_char(week, 'YYYY_MM_DD');
BEGIN
    IF to_regclass(format('lockgate.%I', part)) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE lockgate.record IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass(format('lockgate.%I', part)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE lockgate.%I (LIKE lockgate.record INCLUDING ALL)', part);
    LOCK TABLE lockgate.record_rest IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (DELETE FROM lockgate.record_rest WHERE at >= $1 AND at < $2 RETURNING *) '
        'INSERT INTO lockgate.%I (node, seq, at, arrival, session, fact, detail, words, line) '
        'SELECT node, seq, at, arrival, session, fact, detail, words, line FROM moved', part)
        USING first, next;
    EXECUTE format('ALTER TABLE lockgate.record ATTACH PARTITION lockgate.%I FOR VALUES FROM (%L) TO (%L)', part, first, next);
    RETURN true;
END
$$;

-- This week and the next eight. Agents may call it: it makes nothing else, whatever they say.
CREATE FUNCTION lockgate.make_ready() RETURNS integer
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT count(*) FILTER (WHERE lockgate.make_week(now() + week * interval '7 days'))::integer
          FROM generate_series(0, 8) AS week $$;

-- What listings show, folded from records as they arrive.
CREATE TABLE lockgate.session (
    node text NOT NULL,
    id text NOT NULL,
    started timestamptz NOT NULL,
    ended timestamptz,
    -- The beginning: what the record says of who, where and how.
    opening jsonb NOT NULL,
    -- The end: reason, bytes.
    closing jsonb,
    operations bigint NOT NULL DEFAULT 0,
    denied bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    PRIMARY KEY (node, id)
);
CREATE INDEX session_started ON lockgate.session (started DESC, id DESC);
CREATE INDEX session_open ON lockgate.session (started DESC) WHERE ended IS NULL;

CREATE FUNCTION lockgate.ends_with(line bytea, ending text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT pg_catalog.substr(line, pg_catalog.length(line) OPERATOR(pg_catalog.-) pg_catalog.octet_length(ending)
        OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.=) pg_catalog.convert_to(ending, 'UTF8') $$;

-- After records were added: they must go on where their chain ends, each linked to the one before it. Then the chain and
-- the sessions go on. Every name that a record's own bytes say must be the one in its columns.
CREATE FUNCTION lockgate.go_on() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    added record;
    tip record;
    wrong bigint;
BEGIN
    FOR added IN SELECT node, min(seq) AS first, max(seq) AS last, count(*) AS many FROM fresh GROUP BY node ORDER BY node LOOP
        SELECT seq, hash INTO tip FROM lockgate.chain WHERE node = added.node FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'node % is not enrolled', added.node USING ERRCODE = 'LG001',
                HINT = 'lockgate store enrol NODE --role ROLE';
        END IF;
        IF added.first <> tip.seq + 1 OR added.last - added.first + 1 <> added.many THEN
            RAISE EXCEPTION 'expected record % of node %, got % to %', tip.seq + 1, added.node, added.first, added.last
                USING ERRCODE = 'LG002';
        END IF;
        SELECT linked.seq INTO wrong FROM (
            SELECT seq, line, ends || ',"v":1}' AS alone, ends || ',"session":"' || session || '","v":1}' AS within
            FROM (SELECT seq, line, session, ',"node":"' || node || '","prev":"'
                    || encode(lag(hash, 1, tip.hash) OVER (ORDER BY seq), 'hex') || '","seq":' || seq AS ends
                FROM fresh WHERE node = added.node) AS told) AS linked
        WHERE lockgate.ends_with(line, alone) IS NOT TRUE AND lockgate.ends_with(line, within) IS NOT TRUE
        ORDER BY linked.seq LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'record % of node % does not go on from the one before it', wrong, added.node USING ERRCODE = 'LG003';
        END IF;
        UPDATE lockgate.chain SET seq = added.last, moved_at = clock_timestamp(),
            hash = (SELECT hash FROM fresh WHERE node = added.node AND seq = added.last)
        WHERE node = added.node;
    END LOOP;

    INSERT INTO lockgate.session (node, id, started, opening, first_seq, last_seq)
        SELECT DISTINCT ON (node, session) node, session, at, detail, seq, seq FROM fresh
        WHERE fact = 1 AND session IS NOT NULL AND detail IS NOT NULL ORDER BY node, session, seq
        ON CONFLICT (node, id) DO NOTHING;
    UPDATE lockgate.session AS of SET
            operations = of.operations + counted.operations, denied = of.denied + counted.denied, held = of.held + counted.held,
            last_seq = counted.last, ended = coalesce(counted.ended, of.ended), closing = coalesce(counted.closing, of.closing)
        FROM (SELECT node, session, max(seq) AS last,
                count(*) FILTER (WHERE fact IN (2, 3)) AS operations,
                count(*) FILTER (WHERE fact IN (3, 5)) AS denied,
                count(*) FILTER (WHERE fact = 4) AS held,
                (array_agg(at ORDER BY seq DESC) FILTER (WHERE fact = 6))[1] AS ended,
                (array_agg(detail ORDER BY seq DESC) FILTER (WHERE fact = 6))[1] AS closing
            FROM fresh WHERE session IS NOT NULL GROUP BY node, session) AS counted
        WHERE of.node = counted.node AND of.id = counted.session;
    RETURN NULL;
END
$$;
CREATE TRIGGER go_on AFTER INSERT ON lockgate.record REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION lockgate.go_on();

-- Signed heads, as the nodes signed them. Two of one size with different words are evidence: both stay.
CREATE TABLE lockgate.head (
    node text NOT NULL REFERENCES lockgate.node,
    size bigint NOT NULL,
    note text NOT NULL CHECK (pg_catalog.length(note) <= 4096),
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node, size, note)
);

-- What verifies them. The first word of a node counts; nobody but the owner changes it.
CREATE TABLE lockgate.log_key (
    node text PRIMARY KEY REFERENCES lockgate.node,
    key text NOT NULL CHECK (pg_catalog.length(key) <= 512),
    at timestamptz NOT NULL DEFAULT now()
);

-- Hashes of records that are not here: removed by retention, here or before they came. 32 bytes a record, leaves of the tree.
CREATE TABLE lockgate.removed (
    node text NOT NULL REFERENCES lockgate.node,
    first bigint NOT NULL,
    last bigint NOT NULL CHECK (last >= first),
    leaves bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node, first),
    CHECK (pg_catalog.length(leaves) = (last - first + 1) * 32)
);

-- A login role becomes a node's. One that row-level security does not bind, or that may become somebody else, does not.
CREATE FUNCTION lockgate.enrol(wanted text, login name) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    asked record;
    other name;
BEGIN
    SELECT * INTO asked FROM pg_roles WHERE rolname = login;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no role %', login USING ERRCODE = 'LG004', HINT = format('CREATE ROLE %I LOGIN PASSWORD …', login);
    END IF;
    IF asked.rolsuper OR asked.rolbypassrls OR asked.rolcreaterole OR asked.rolreplication OR asked.rolcreatedb THEN
        RAISE EXCEPTION 'role % is more than an agent may be', login USING ERRCODE = 'LG004',
            HINT = 'give the agent a role that is no superuser, makes no roles or databases, and does not replicate or bypass row-level security';
    END IF;
    SELECT rolname INTO other FROM pg_roles
        WHERE oid <> asked.oid AND rolname <> 'lockgate_agent' AND pg_has_role(asked.oid, oid, 'MEMBER') ORDER BY rolname LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'role % is a member of %', login, other USING ERRCODE = 'LG004',
            HINT = 'what that role may, a stolen credential of the agent could: give the agent a role that is a member of nothing';
    END IF;
    INSERT INTO lockgate.node (node, role) VALUES (wanted, login);
    INSERT INTO lockgate.chain (node) VALUES (wanted);
    EXECUTE format('GRANT lockgate_agent TO %I', login);
END
$$;

-- Nobody has what is not granted below.
REVOKE ALL ON ALL TABLES IN SCHEMA lockgate FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockgate FROM PUBLIC;

DO $$
DECLARE
    of text;
BEGIN
    FOREACH of IN ARRAY ARRAY['chain', 'record', 'session', 'head', 'log_key', 'removed'] LOOP
        EXECUTE pg_catalog.format('ALTER TABLE lockgate.%I ENABLE ROW LEVEL SECURITY', of);
        EXECUTE pg_catalog.format('ALTER TABLE lockgate.%I FORCE ROW LEVEL SECURITY', of);
        EXECUTE pg_catalog.format('CREATE POLICY owner ON lockgate.%I TO CURRENT_USER USING (true) WITH CHECK (true)', of);
        EXECUTE pg_catalog.format('CREATE POLICY reads ON lockgate.%I FOR SELECT TO lockgate_console, lockgate_auditor USING (true)', of);
        EXECUTE pg_catalog.format('CREATE POLICY own ON lockgate.%I FOR SELECT TO lockgate_agent USING (node = (SELECT lockgate.own_node()))', of);
        EXECUTE pg_catalog.format('GRANT SELECT ON lockgate.%I TO lockgate_agent, lockgate_console, lockgate_auditor', of);
    END LOOP;
    FOREACH of IN ARRAY ARRAY['record', 'head', 'log_key'] LOOP
        EXECUTE pg_catalog.format('CREATE POLICY adds ON lockgate.%I FOR INSERT TO lockgate_agent WITH CHECK (node = (SELECT lockgate.own_node()))', of);
    END LOOP;
END
$$;
GRANT INSERT (node, seq, at, session, fact, detail, words, line) ON lockgate.record TO lockgate_agent;
GRANT INSERT (node, size, note) ON lockgate.head TO lockgate_agent;
GRANT INSERT (node, key) ON lockgate.log_key TO lockgate_agent;
GRANT USAGE ON SEQUENCE lockgate.arrival TO lockgate_agent;
GRANT EXECUTE ON FUNCTION lockgate.own_node(), lockgate.make_ready() TO lockgate_agent;
GRANT SELECT ON lockgate.node TO lockgate_console, lockgate_auditor;

SELECT lockgate.make_ready();
