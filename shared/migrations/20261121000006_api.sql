-- The HTTP API: who may use it, and the answers that a repeated request gets again.

-- A key of the HTTP API. Removed by a person; a revoked one stays, so that its name still tells whose it was.
create table nightshift.api_keys (
    id bigint generated always as identity primary key,
    name text not null check (name <> ''),
    -- SHA-256 of the secret; why no slow hash: shared/src/api_keys.rs
    secret_hash bytea not null check (octet_length(secret_hash) = 32),
    -- 'operate' may also read
    scope text not null check (scope in ('read', 'operate')),
    created_at timestamptz not null default now(),
    -- to the minute
    last_used_at timestamptz,
    revoked_at timestamptz
);
create unique index api_keys_name on nightshift.api_keys (name) where revoked_at is null;

-- What a request with an Idempotency-Key made, and was told. Removed after a day, by the next request with such a key.
create table nightshift.idempotent_requests (
    api_key_id bigint not null references nightshift.api_keys (id) on delete cascade,
    idempotency_key text not null,
    -- SHA-256 of method, path, query, content type and body
    request_hash bytea not null,
    -- null only within the transaction that makes the thing
    status integer,
    response jsonb,
    created_at timestamptz not null default now(),
    primary key (api_key_id, idempotency_key)
);
create index idempotent_requests_by_age on nightshift.idempotent_requests (created_at);
