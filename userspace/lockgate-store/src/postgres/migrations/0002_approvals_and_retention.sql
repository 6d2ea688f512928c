-- Requests that wait for people anywhere, and what people said of them. And legal holds, for retention.
--
-- Nothing here is changed: a request is asked, decided by people, and ended by the node that asked. A node may ask and end
-- its own; it decides nothing. Who waits is woken by NOTIFY, which tells nothing: the rows are what counts.

CREATE TABLE lockgate.request (
    node text NOT NULL REFERENCES lockgate.node,
    id text NOT NULL CHECK (pg_catalog.length(id) <= 64),
    asked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at timestamptz NOT NULL,
    -- What people are shown.
    card jsonb NOT NULL,
    PRIMARY KEY (node, id)
);

CREATE TABLE lockgate.decision (
    node text NOT NULL,
    request text NOT NULL,
    -- One word of each person.
    person text NOT NULL CHECK (person <> ''),
    approves boolean NOT NULL,
    -- The vote as the node is to record it.
    vote jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (node, request, person),
    FOREIGN KEY (node, request) REFERENCES lockgate.request (node, id)
);

CREATE TABLE lockgate.ending (
    node text NOT NULL,
    request text NOT NULL,
    how text NOT NULL CHECK (how <> ''),
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (node, request),
    FOREIGN KEY (node, request) REFERENCES lockgate.request (node, id)
);

-- A decision counts while the request waits: by this server's clock, and before its end. The request's row is locked, so
-- that of a decision and an end at the same moment one comes first.
CREATE FUNCTION lockgate.in_time() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    until timestamptz;
BEGIN
    SELECT expires_at INTO until FROM lockgate.request WHERE node = NEW.node AND id = NEW.request FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no request %', NEW.request USING ERRCODE = 'LG010';
    END IF;
    IF TG_TABLE_NAME = 'decision' THEN
        IF EXISTS (SELECT FROM lockgate.ending WHERE node = NEW.node AND request = NEW.request) THEN
            RAISE EXCEPTION 'request % has ended', NEW.request USING ERRCODE = 'LG011';
        END IF;
        IF clock_timestamp() >= until THEN
            RAISE EXCEPTION 'request % expired at %', NEW.request, until USING ERRCODE = 'LG012';
        END IF;
    END IF;
    -- When the row was locked: of two that came together, the first has the earlier time.
    NEW.at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER in_time BEFORE INSERT ON lockgate.decision FOR EACH ROW EXECUTE FUNCTION lockgate.in_time();
CREATE TRIGGER in_time BEFORE INSERT ON lockgate.ending FOR EACH ROW EXECUTE FUNCTION lockgate.in_time();

CREATE FUNCTION lockgate.wake() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], NEW.node);
    RETURN NULL;
END
$$;
CREATE TRIGGER wake AFTER INSERT ON lockgate.request FOR EACH ROW EXECUTE FUNCTION lockgate.wake('lockgate_asked');
CREATE TRIGGER wake AFTER INSERT ON lockgate.ending FOR EACH ROW EXECUTE FUNCTION lockgate.wake('lockgate_asked');
CREATE TRIGGER wake AFTER INSERT ON lockgate.decision FOR EACH ROW EXECUTE FUNCTION lockgate.wake('lockgate_decided');

-- Legal holds, of every node: what they name stays, whatever retention says.
CREATE TABLE lockgate.hold (
    name text PRIMARY KEY,
    hold jsonb NOT NULL
);

REVOKE ALL ON lockgate.request, lockgate.decision, lockgate.ending, lockgate.hold FROM PUBLIC;
REVOKE ALL ON FUNCTION lockgate.in_time(), lockgate.wake() FROM PUBLIC;

DO $$
DECLARE
    of text;
BEGIN
    FOREACH of IN ARRAY ARRAY['request', 'decision', 'ending', 'hold'] LOOP
        EXECUTE pg_catalog.format('ALTER TABLE lockgate.%I ENABLE ROW LEVEL SECURITY', of);
        EXECUTE pg_catalog.format('ALTER TABLE lockgate.%I FORCE ROW LEVEL SECURITY', of);
        EXECUTE pg_catalog.format('CREATE POLICY owner ON lockgate.%I TO CURRENT_USER USING (true) WITH CHECK (true)', of);
        EXECUTE pg_catalog.format('CREATE POLICY reads ON lockgate.%I FOR SELECT TO lockgate_console, lockgate_auditor USING (true)', of);
        EXECUTE pg_catalog.format('GRANT SELECT ON lockgate.%I TO lockgate_console, lockgate_auditor', of);
    END LOOP;
    FOREACH of IN ARRAY ARRAY['request', 'decision', 'ending'] LOOP
        EXECUTE pg_catalog.format('CREATE POLICY own ON lockgate.%I FOR SELECT TO lockgate_agent USING (node = (SELECT lockgate.own_node()))', of);
        EXECUTE pg_catalog.format('GRANT SELECT ON lockgate.%I TO lockgate_agent', of);
    END LOOP;
    FOREACH of IN ARRAY ARRAY['request', 'ending'] LOOP
        EXECUTE pg_catalog.format('CREATE POLICY adds ON lockgate.%I FOR INSERT TO lockgate_agent WITH CHECK (node = (SELECT lockgate.own_node()))', of);
    END LOOP;
END
$$;
CREATE POLICY decides ON lockgate.decision FOR INSERT TO lockgate_console WITH CHECK (true);
GRANT INSERT (node, id, expires_at, card) ON lockgate.request TO lockgate_agent;
GRANT INSERT (node, request, how) ON lockgate.ending TO lockgate_agent;
GRANT INSERT (node, request, person, approves, vote) ON lockgate.decision TO lockgate_console;
