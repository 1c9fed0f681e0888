-- What the server bears of grouped commands (RFC 2920), as its connections met it: MAIL and RCPT in one write; the content
-- of a mail in one write with the next mail's commands; DATA in the group. Believed for a week, then tried again.
alter table nightshift.smtp_accounts
    add column grouped boolean not null default true,
    add column chained boolean not null default true,
    add column data_in_group boolean not null default true,
    add column manners_met_at timestamptz;

-- Tries that ended with an answer about the account or the provider and not about this mail: they cost it no attempt.
alter table nightshift.deliveries
    add column returned integer not null default 0;

-- An index on what changes with each mail keeps Postgres from updating the row in place, and a handful of rows grew to
-- thousands of dead ones. That a mail is in one connection at most is the gate's doing: it marks each only once.
alter table nightshift.smtp_connections
    drop constraint smtp_connections_delivery_id_key;
