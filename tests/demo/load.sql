-- A small shop beside pgbench's tables: text, JSON, binary columns, arrays, large objects, a view, a function, an enum.
CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('new', 'paid', 'shipped');
CREATE TABLE shop.customers (
    id bigserial PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    since timestamptz NOT NULL
);
CREATE TABLE shop.orders (
    id bigserial PRIMARY KEY,
    customer bigint NOT NULL REFERENCES shop.customers,
    state shop.state NOT NULL,
    total numeric(12, 2) NOT NULL CHECK (total >= 0),
    lines jsonb NOT NULL
);
CREATE TABLE shop.documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer bigint REFERENCES shop.customers,
    title text NOT NULL,
    body text NOT NULL,
    scan bytea NOT NULL,
    attachment oid
);
SELECT setseed(0.5);
INSERT INTO shop.customers (name, email, tags, since)
SELECT 'Kundin „' || i || E'“ \\ \t' || md5(i::text), i || '@shop.example', ARRAY['a' || i % 7, 'b' || i % 11],
       timestamptz '1970-01-01 00:00:00.000001+00' + i * interval '7 hours 13 seconds'
FROM generate_series(1, 20000) i;
INSERT INTO shop.orders (customer, state, total, lines)
SELECT 1 + (random() * 19999)::int, (enum_range(NULL::shop.state))[1 + i % 3], (random() * 1000)::numeric(12, 2),
       jsonb_build_array(jsonb_build_object('sku', md5(random()::text), 'count', i % 9, 'note', repeat('gift ', i % 5)))
FROM generate_series(1, 200000) i;
INSERT INTO shop.documents (customer, title, body, scan, attachment)
SELECT 1 + (random() * 19999)::int, 'Document ' || i, repeat(md5(random()::text) || E' lorem ipsum\n', 40),
       decode(string_agg(md5(random()::text), ''), 'hex'), NULL
FROM generate_series(1, 2000) i, generate_series(1, 250 + i * 0) j
GROUP BY i;
UPDATE shop.documents SET attachment = lo_from_bytea(0, scan || convert_to(body, 'UTF8'))
WHERE id IN (SELECT id FROM shop.documents ORDER BY title LIMIT 200);
CREATE INDEX ON shop.orders (customer);
CREATE INDEX ON shop.orders USING gin (lines);
CREATE VIEW shop.revenue AS SELECT state, sum(total) AS total FROM shop.orders GROUP BY state;
CREATE FUNCTION shop.spent(bigint) RETURNS numeric LANGUAGE sql STABLE
    AS 'SELECT coalesce(sum(total), 0) FROM shop.orders WHERE customer = $1';
COMMENT ON TABLE shop.orders IS 'What was bought; ''quoted'' and "quoted".';
