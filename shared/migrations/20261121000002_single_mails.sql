-- Single (transactional) mail: deliveries without a campaign, each in a batch of its own, with content of their own.

-- A mail that nobody but the server refused, because of what it says. A campaign is paused for that; a single mail has none.
alter table nightshift.deliveries drop constraint deliveries_cause_check;
alter table nightshift.deliveries add constraint deliveries_cause_check
    check (cause in ('address', 'expired', 'render', 'poison', 'content'));

-- What outsiders know a single mail by. Campaigns stay out of it: their mails are many, and nobody asks for one so.
create unique index deliveries_single_by_public_id on nightshift.deliveries (public_id) where campaign_id is null;

-- Content of a single mail. Removed with its delivery, by clean-history after its retention; so its key may be used again.
create table nightshift.single_mails (
    delivery_id bigint primary key references nightshift.deliveries (id) on delete cascade,
    account_id bigint not null references nightshift.smtp_accounts (id),
    -- the host's own name for the mail: of two with one key only the first is made
    key text check (key <> ''),
    subject text not null check (subject <> ''),
    text_body text,
    html_body text,
    -- subject and bodies are templates for the delivery's fields; otherwise they stand as they are
    is_template boolean not null default false,
    -- the list that its unsubscribe link leaves; null for a mail without such a link, '' for all mail
    list text,
    -- whose limits it counts against, in the host's own words
    owner text,
    -- instead of the account's
    reply_to text,
    uncertain_policy text not null default 'hold' check (uncertain_policy in ('hold', 'resend', 'count_as_sent')),
    created_at timestamptz not null default now(),
    check (text_body is not null or html_body is not null),
    unique (account_id, key)
);

-- Files that go with a single mail. Removed with it.
create table nightshift.single_mail_attachments (
    delivery_id bigint not null references nightshift.single_mails (delivery_id) on delete cascade,
    position integer not null,
    name text not null check (name <> ''),
    -- as it will stand in Content-Type, parameters and all
    content_type text not null check (content_type ~ '^[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+'),
    content bytea not null,
    primary key (delivery_id, position)
);

-- Makes a single mail, in the caller's transaction, and returns its public id. It leaves within a minute of the commit, or
-- at once when queue `transactional` is rung (docs/contract.md). Called again with the same key it makes nothing and
-- returns the first one's id. What it refuses, it refuses with SQLSTATE 22023 and words that say what to do.
create function nightshift.send_mail(
    -- name of the SMTP account
    account text,
    -- as it will stand in To
    recipient text,
    subject text,
    text_body text default null,
    html_body text default null,
    key text default null,
    -- values of the merge fields: makes subject and bodies templates
    fields jsonb default null,
    list text default null,
    owner text default null,
    reply_to text default null,
    -- [{"name": "a.pdf", "content_type": "application/pdf", "content": "<Base64>"}]
    attachments jsonb default '[]',
    uncertain_policy text default 'hold',
    -- what makes two addresses the same; needed only where the address is not plain ASCII
    recipient_normalised text default null
)
returns uuid
language plpgsql
as $$
declare
    -- 10 MiB: with Base64 and the mail around it that is what most servers take
    most_bytes constant bigint := 10485760;
    ascii_domain constant text := '@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$';
    plain constant text := '^[a-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&''*+/=?^_`{|}~-]+)*' || ascii_domain;
    its_account bigint;
    normalised text;
    made_delivery bigint;
    made_batch bigint;
    public_id uuid;
    same_recipient boolean;
    attachment record;
    bytes bytea;
    total bigint := 0;
begin
    select a.id into its_account from nightshift.smtp_accounts a where a.name = send_mail.account;
    if its_account is null then
        raise invalid_parameter_value using message = format(
            'there is no SMTP account %L; the accounts are: %s', account,
            coalesce((select string_agg(a.name, ', ' order by a.name) from nightshift.smtp_accounts a), 'none yet'));
    end if;

    normalised := coalesce(recipient_normalised, lower(recipient));
    if normalised is null or normalised = '' then
        raise invalid_parameter_value using message = 'the recipient is empty; give an address';
    end if;
    if recipient_normalised is null and recipient ~ '[^\x01-\x7f]' then
        raise invalid_parameter_value using message = format(
            'the address %L is not plain ASCII; write its domain in ASCII (xn--…), or give recipient_normalised: lower case, '
            'the domain in ASCII', recipient);
    end if;
    if normalised !~ (case when recipient_normalised is null then plain else '^[^[:space:][:cntrl:]@<>,;"]+' || ascii_domain end)
        or recipient ~ '[[:space:][:cntrl:]<>,;"]' or recipient !~ '^[^@]+@[^@]+$'
        or octet_length(split_part(recipient, '@', 1)) > 64 or octet_length(normalised) > 254
    then
        raise invalid_parameter_value using message = format(
            'the address %L cannot be mailed; one address of the form name@example.org is needed', recipient);
    end if;

    if coalesce(trim(subject), '') = '' or subject ~ '[[:cntrl:]]' or char_length(subject) > 998 then
        raise invalid_parameter_value using message =
            'the subject must be one line with something on it, of 998 characters at most';
    end if;
    if text_body is null and html_body is null then
        raise invalid_parameter_value using message = 'the mail is empty; give text_body, html_body or both';
    end if;
    if key = '' then
        raise invalid_parameter_value using message =
            'the key is empty; give null for a mail without a key, or a name of your own that stands for this mail alone';
    end if;
    if fields is not null and jsonb_typeof(fields) <> 'object' then
        raise invalid_parameter_value using message = 'fields must be a JSON object, {"name": "value"}';
    end if;
    if uncertain_policy is null or uncertain_policy not in ('hold', 'resend', 'count_as_sent') then
        raise invalid_parameter_value using message = format(
            'uncertain_policy is %L; it must be hold, resend or count_as_sent', uncertain_policy);
    end if;
    if reply_to is not null and lower(reply_to) !~ plain then
        raise invalid_parameter_value using message = format(
            'reply_to %L is no plain address of the form name@example.org', reply_to);
    end if;
    if attachments is not null and jsonb_typeof(attachments) <> 'array' then
        raise invalid_parameter_value using message =
            'attachments must be a JSON array of {"name", "content_type", "content"}';
    end if;

    -- Another call with this key that is under way makes the second insert below wait for it, and then this loop looks again.
    for attempt in 1..2 loop
        if key is not null then
            select d.public_id, d.email_normalised = normalised
            into public_id, same_recipient
            from nightshift.single_mails m
            join nightshift.deliveries d on d.id = m.delivery_id
            where m.account_id = its_account
                and m.key = send_mail.key;
            if found then
                if not same_recipient then
                    raise invalid_parameter_value using message = format(
                        'the key %L stands for a mail to another recipient; give each mail a key of its own', key);
                end if;
                return public_id;
            end if;
        end if;
        begin
            insert into nightshift.batches (account_id) values (its_account) returning id into made_batch;
            insert into nightshift.deliveries (batch_id, email, email_normalised, fields)
            values (made_batch, recipient, normalised, coalesce(send_mail.fields, '{}'))
            returning id, deliveries.public_id into made_delivery, public_id;
            insert into nightshift.single_mails (
                delivery_id, account_id, key, subject, text_body, html_body, is_template, list, owner, reply_to,
                uncertain_policy
            )
            values (
                made_delivery, its_account, send_mail.key, trim(send_mail.subject), send_mail.text_body,
                send_mail.html_body, send_mail.fields is not null, send_mail.list, send_mail.owner, send_mail.reply_to,
                send_mail.uncertain_policy
            );
            exit;
        exception when unique_violation then
            made_delivery := null;
        end;
    end loop;
    if made_delivery is null then
        raise serialization_failure using message = format(
            'another transaction makes the mail with key %L at this moment; repeat yours', key);
    end if;

    for attachment in
        select item.value, item.ordinality
        from jsonb_array_elements(coalesce(attachments, '[]')) with ordinality as item (value, ordinality)
    loop
        begin
            bytes := decode(attachment.value ->> 'content', 'base64');
        exception when others then
            raise invalid_parameter_value using message = format(
                'the content of attachment %s is not Base64', attachment.ordinality);
        end;
        if bytes is null or coalesce(attachment.value ->> 'name', '') = '' or attachment.value ->> 'name' ~ '[[:cntrl:]]'
            or coalesce(attachment.value ->> 'content_type', '') !~ '^[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+(;[ -~]*)?$'
        then
            raise invalid_parameter_value using message = format(
                'attachment %s needs a name, a content_type such as application/pdf, and content in Base64',
                attachment.ordinality);
        end if;
        total := total + octet_length(bytes);
        if total > most_bytes then
            raise invalid_parameter_value using message =
                'the attachments are larger than 10 MiB together; send a link instead';
        end if;
        insert into nightshift.single_mail_attachments (delivery_id, position, name, content_type, content)
        values (
            made_delivery, attachment.ordinality, attachment.value ->> 'name', attachment.value ->> 'content_type', bytes
        );
    end loop;
    return public_id;
end
$$;
