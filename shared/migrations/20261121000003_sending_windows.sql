-- Whether a text is a sending window, as shared/src/limits/window.rs reads it: 'mon-fri 09:00-20:00, sat 10:00-16:00'.
create function nightshift.is_sending_window(candidate text) returns boolean
    language sql immutable parallel safe
    return (
        select bool_and(
            span ~* (
                '^((mon|tue|wed|thu|fri|sat|sun)(-(mon|tue|wed|thu|fri|sat|sun))? )?'
                || '([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$'
            )
            -- never open, or always: the one who wrote it meant something else
            and span !~ '([0-9]{2}:[0-9]{2})-\1$'
        )
        from regexp_split_to_table(candidate, ', ') as span
    );

-- When mail may leave, in the local time of the account. Days may be left out; a span that closes before it opens goes on
-- over midnight. Null: at any time. Mail leaves only while the windows of both account and campaign are open.
alter table nightshift.smtp_accounts
    add column sending_window text
        constraint sending_window_form check (nightshift.is_sending_window(sending_window));
alter table nightshift.campaigns
    add column sending_window text
        constraint sending_window_form check (nightshift.is_sending_window(sending_window));

-- How long the lease lasts without a write: one that has not been renewed for most of that belongs to a dead function.
alter table nightshift.batches
    add column lease_seconds double precision;
