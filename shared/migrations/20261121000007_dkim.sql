-- A key that mail of an account is signed with (DKIM, RFC 6376). Its row never changes: a new key is a new row, so that a
-- process may keep what it has parsed. Removed by a person, or with its account.
create table nightshift.dkim_keys (
    id bigint generated always as identity primary key,
    account_id bigint not null references nightshift.smtp_accounts (id) on delete cascade,
    -- whose name the signature bears: the domain of From, or one above it
    domain text not null check (domain ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$'),
    -- the public key stands in DNS at SELECTOR._domainkey.DOMAIN
    selector text not null check (selector ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    algorithm text not null check (algorithm in ('rsa', 'ed25519')),
    -- PKCS #8 in Base64, in a Fernet token under one of the keys in ENCRYPTION_KEYS
    private_key_encrypted text not null,
    -- as it stands in p= of the DNS record
    public_key text not null,
    created_at timestamptz not null default now(),
    unique (domain, selector)
);
create index dkim_keys_of_account on nightshift.dkim_keys (account_id);

-- A mail that its server took and that came back later. It stays 'sent', as the books have it; this says what followed.
alter table nightshift.deliveries
    add column bounced_at timestamptz,
    add column bounce text;
