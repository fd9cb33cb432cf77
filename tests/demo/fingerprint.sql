-- One line a table, sequence and large object: what is in it, whatever the order it is stored in.
SELECT format(
    'SELECT %L, count(*), coalesce(sum((''x'' || substr(md5(t::text), 1, 15))::bit(60)::bigint::numeric), 0) FROM %I.%I t',
    schemaname || '.' || tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 \gexec
SELECT schemaname || '.' || sequencename, last_value FROM pg_sequences ORDER BY 1;
SELECT 'large objects', count(*), coalesce(sum(length(lo_get(oid))), 0), md5(string_agg(oid || md5(lo_get(oid)), '' ORDER BY oid))
FROM pg_largeobject_metadata;
