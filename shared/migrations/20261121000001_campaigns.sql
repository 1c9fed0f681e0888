-- Campaign mail: accounts, campaigns, their recipients, batches and deliveries. Every table says what removes its rows.

-- One row, made with the schema. Removed never.
create table nightshift.installation (
    only_row boolean primary key default true check (only_row),
    installed_at timestamptz not null default now()
);
insert into nightshift.installation default values;

-- An SMTP account that mail leaves through. Removed by a person; campaigns and batches hold it back.
create table nightshift.smtp_accounts (
    id bigint generated always as identity primary key,
    name text not null unique check (name <> ''),
    host text not null check (host <> ''),
    port integer not null check (port between 1 and 65535),
    -- 'starttls': plain connect, then TLS, never without; 'tls': TLS from the first byte; 'plain': no TLS at all
    security text not null check (security in ('starttls', 'tls', 'plain')),
    username text,
    -- a Fernet token under one of the keys in ENCRYPTION_KEYS (docs/contract.md)
    password_encrypted text,
    from_email text not null,
    from_name text,
    reply_to text,
    -- the calendar day of daily limits, and the times shown to people
    time_zone text not null default 'UTC',
    -- most SMTP connections open at once, over all functions
    max_connections integer not null default 8 check (max_connections between 1 and 200),
    -- while in the future, nothing leaves through this account; pause_reason says why
    paused_until timestamptz,
    pause_reason text,
    created_at timestamptz not null default now(),
    check ((username is null) = (password_encrypted is null))
);

-- A campaign. Its content is frozen from 'scheduled' on. Removed by a person, with everything below it.
create table nightshift.campaigns (
    id bigint generated always as identity primary key,
    name text not null check (name <> ''),
    account_id bigint not null references nightshift.smtp_accounts (id),
    -- whose limits it counts against, in the host's own words
    owner text,
    subject text not null,
    html_template text not null,
    text_template text not null,
    -- which list people unsubscribe from with its link; '' stands for all mail
    list text not null default '',
    status text not null default 'draft'
        check (status in ('draft', 'scheduled', 'sending', 'paused', 'sent', 'cancelled')),
    -- why it waits or went back to draft, for people
    status_reason text,
    -- what becomes of a mail whose content was handed over and whose answer was not recorded
    uncertain_policy text not null default 'hold' check (uncertain_policy in ('hold', 'resend', 'count_as_sent')),
    start_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    -- rows of the recipients file: imported = planned + duplicates
    imported bigint not null default 0,
    rejected bigint not null default 0,
    duplicates bigint not null default 0,
    planned bigint not null default 0,
    created_at timestamptz not null default now(),
    check (status <> 'scheduled' or start_at is not null)
);
create index campaigns_waiting on nightshift.campaigns (start_at) where status = 'scheduled';

-- Who a draft is for, as imported. Removed by planning, which turns them into deliveries.
create table nightshift.recipients (
    campaign_id bigint not null references nightshift.campaigns (id) on delete cascade,
    -- line of the file, or any order the host likes
    position bigint not null,
    email text not null,
    -- what makes two addresses the same: lower case, domain in its ASCII form
    email_normalised text not null,
    -- values of the merge fields, by name
    fields jsonb not null default '{}' check (jsonb_typeof(fields) = 'object'),
    primary key (campaign_id, position)
);

-- A piece of a campaign that one function works on at a time. Removed with its campaign.
create table nightshift.batches (
    id bigint generated always as identity primary key,
    campaign_id bigint references nightshift.campaigns (id) on delete cascade,
    account_id bigint not null references nightshift.smtp_accounts (id),
    -- when there is something to do again; moves with deferrals
    due_at timestamptz not null default now(),
    -- the lease: whoever holds this token until then may send from the batch
    lease_token uuid,
    leased_until timestamptz,
    rung_at timestamptz,
    -- claims in a row that ended without a single recorded outcome
    fruitless_claims integer not null default 0,
    finished_at timestamptz,
    created_at timestamptz not null default now(),
    check ((lease_token is null) = (leased_until is null))
) with (fillfactor = 50);
create index batches_open on nightshift.batches (account_id, id) where finished_at is null;
create index batches_of_campaign on nightshift.batches (campaign_id);

-- One mail to one recipient, and what became of it. Removed with its campaign; single mails by clean-history.
-- The fill factor leaves room for the two updates of a mail's life on its own page, without touching an index.
create table nightshift.deliveries (
    id bigint generated always as identity primary key,
    -- null for a single (transactional) mail
    campaign_id bigint references nightshift.campaigns (id) on delete cascade,
    batch_id bigint references nightshift.batches (id) on delete cascade,
    -- what outsiders see of it: the left part of its Message-ID
    public_id uuid not null default gen_random_uuid(),
    email text not null,
    email_normalised text not null,
    fields jsonb not null default '{}',
    state text not null default 'pending'
        check (state in ('pending', 'sending', 'sent', 'refused', 'deferred', 'uncertain', 'suppressed', 'cancelled')),
    cause text check (cause in ('address', 'expired', 'render', 'poison')),
    -- tries that reached the server
    attempts integer not null default 0,
    next_attempt_at timestamptz,
    -- lease token of the try in progress or last made: only its holder may record what came of it
    attempt_token uuid,
    attempted_at timestamptz,
    settled_at timestamptz,
    -- the server's last word, or ours where it had none
    reply text,
    check ((state = 'refused') = (cause is not null)),
    check (state <> 'deferred' or next_attempt_at is not null),
    check (state <> 'sending' or attempt_token is not null)
) with (fillfactor = 50);
create unique index deliveries_once_per_address on nightshift.deliveries (campaign_id, email_normalised);
create index deliveries_of_batch on nightshift.deliveries (batch_id);

-- An SMTP connection slot of an account, and the one mail that is between its final dot and the recorded answer.
-- As many rows as the account ever had connections. Removed with the account.
create table nightshift.smtp_connections (
    account_id bigint not null references nightshift.smtp_accounts (id) on delete cascade,
    slot integer not null check (slot >= 0),
    lease_token uuid,
    leased_until timestamptz,
    -- unique, but no foreign key: that would lock the delivery once more for each mail
    delivery_id bigint unique,
    primary key (account_id, slot)
) with (fillfactor = 50);

-- Addresses that get no mail, per list or for all ('').  Removed by a person.
create table nightshift.suppressions (
    email_normalised text not null,
    list text not null default '',
    reason text not null default 'manual' check (reason in ('manual', 'unsubscribed', 'bounced', 'complained')),
    note text,
    created_at timestamptz not null default now(),
    primary key (email_normalised, list)
);

-- How much mail may leave in a time. Consumed inside the gate. Removed by a person.
create table nightshift.limits (
    id bigint generated always as identity primary key,
    scope text not null check (scope in ('account', 'user', 'domain')),
    -- the account's id, the campaign's owner, or the recipient's domain
    subject text not null,
    -- sliding second, minute or hour; 'day' is the calendar day in the account's time zone
    period text not null check (period in ('second', 'minute', 'hour', 'day')),
    maximum integer not null check (maximum > 0),
    unique (scope, subject, period)
);

-- What a limit has let through, in slices of its period. The gate removes slices that no longer count.
create table nightshift.limit_usage (
    limit_id bigint not null references nightshift.limits (id) on delete cascade,
    slice_start timestamptz not null,
    used integer not null check (used >= 0),
    primary key (limit_id, slice_start)
);

-- Every invocation of a job. Removed by clean-history after its retention.
create table nightshift.job_runs (
    id bigint generated always as identity primary key,
    job text not null,
    trigger text not null check (trigger in ('schedule', 'queue', 'manual')),
    -- the tick it answers; makes a tick that fires twice run once
    scheduled_for timestamptz,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    outcome text check (outcome in ('ok', 'failed')),
    counts jsonb not null default '{}',
    error text,
    check ((finished_at is null) = (outcome is null)),
    unique (job, scheduled_for)
);
create index job_runs_latest on nightshift.job_runs (job, started_at desc);
