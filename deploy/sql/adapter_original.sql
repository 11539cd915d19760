-- The four views over the schema of the application that Animora was first built for, and the triggers that
-- notify the servers of blocks and deletions. Apply this file in place of 010_tables.sql, 020_views.sql and
-- 025_notify.sql, then 030_reader.sql.
--
--   public.users(id uuid, index)
--   public.posts(id uuid, index, user_posts, created_at, deleted_at, image_feature, text_feature)
--   public.likes(id, user_likes, post_likes, created_at)
--   public.comments(id, user_comments, post_comments, created_at)
--   public.block_relations(user_blocking, user_blocked_by)
--
-- Ids are the integer columns `index`, since Animora's are 64-bit integers. A row that points nowhere, or to
-- what has no index, is left out. Features are JSON text of 768 floats; anything else is null, as if it had not been computed.
-- Posts carry no time of change there, so updated_at is null; blocks carry no time at all, so theirs is the
-- epoch. Times without a zone are UTC: where the application writes another zone, name it in animora.utc.
-- Idempotent.

create schema if not exists animora;

-- PostgreSQL's array syntax differs from a JSON list of numbers only in its brackets, and is parsed several times
-- faster than json.
create or replace function animora.parse_features(features text, width integer) returns real[]
language plpgsql immutable strict parallel safe as $$
declare
    parsed real[];
begin
    parsed := translate(features, '[]', '{}')::real[];
    if array_ndims(parsed) is distinct from 1
        or cardinality(parsed) <> width
        or array_position(parsed, null) is not null
        or parsed && array['NaN', 'Infinity', '-Infinity']::real[]
    then
        return null;
    end if;
    return parsed;
exception
    when data_exception then
        return null;
end
$$;

-- Whether the application's times have a zone or not.
create or replace function animora.utc(moment timestamptz) returns timestamptz
language sql immutable parallel safe
return moment;

create or replace function animora.utc(moment timestamp) returns timestamptz
language sql immutable parallel safe
return moment at time zone 'UTC';

create or replace view animora.users as
select index::bigint as id
from public.users
where index is not null;

create or replace view animora.posts as
select
    post.index::bigint as id,
    author.index::bigint as author_id,
    animora.utc(post.created_at) as created_at,
    null::timestamptz as updated_at,
    animora.utc(post.deleted_at) as deleted_at,
    animora.parse_features(post.image_feature::text, 768) as image_embedding,
    animora.parse_features(post.text_feature::text, 768) as caption_embedding
from public.posts as post
join public.users as author on author.id = post.user_posts
where post.index is not null and author.index is not null;

create or replace view animora.interactions as
select
    fan.index::bigint as user_id,
    post.index::bigint as post_id,
    'like'::text as kind,
    animora.utc(liked.created_at) as created_at
from public.likes as liked
join public.users as fan on fan.id = liked.user_likes
join public.posts as post on post.id = liked.post_likes
where fan.index is not null and post.index is not null
union all
select
    fan.index::bigint as user_id,
    post.index::bigint as post_id,
    'comment'::text as kind,
    animora.utc(commented.created_at) as created_at
from public.comments as commented
join public.users as fan on fan.id = commented.user_comments
join public.posts as post on post.id = commented.post_comments
where fan.index is not null and post.index is not null;

create or replace view animora.blocks as
select
    blocker.index::bigint as blocker_id,
    blocked.index::bigint as blocked_id,
    'epoch'::timestamptz as created_at
from public.block_relations as relation
join public.users as blocker on blocker.id = relation.user_blocking
join public.users as blocked on blocked.id = relation.user_blocked_by
where blocker.index is not null and blocked.index is not null;

-- The triggers of 025_notify.sql, with integer ids. The functions run with their owner's rights,
-- since a role that writes blocks need not be allowed to read users. An un-block looks for another row of the
-- same pair, since pairs are not unique here: an index on (user_blocking, user_blocked_by) makes that cheap. The
-- limits in 025_notify.sql (TRUNCATE, replication, two-phase commit, `set constraints all immediate`) hold here
-- as well.

create or replace function animora.notify_block() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('animora', format('block %s %s', blocker.index, blocked.index))
    from public.users as blocker, public.users as blocked
    where blocker.id = new.user_blocking and blocked.id = new.user_blocked_by
        and blocker.index is not null and blocked.index is not null;
    return null;
end
$$;

create or replace function animora.notify_unblock() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (
        select from public.block_relations
        where user_blocking = old.user_blocking and user_blocked_by = old.user_blocked_by
    ) then
        perform pg_notify('animora', format('unblock %s %s', blocker.index, blocked.index))
        from public.users as blocker, public.users as blocked
        where blocker.id = old.user_blocking and blocked.id = old.user_blocked_by
            and blocker.index is not null and blocked.index is not null;
    end if;
    return null;
end
$$;

create or replace function animora.notify_deleted() returns trigger
language plpgsql as $$
begin
    perform pg_notify('animora', format('delete %s', old.index));
    return null;
end
$$;

create or replace function animora.notify_gone() returns trigger
language plpgsql as $$
begin
    perform pg_notify('animora', 'delete ' || string_agg(index::text, ' '))
    from (
        select index, (row_number() over () - 1) / 300 as part
        from gone
        where deleted_at is null and index is not null
    ) as numbered
    group by part;
    return null;
end
$$;

create or replace trigger animora_notify_block
after insert or update on public.block_relations
for each row
execute function animora.notify_block();

do $$
begin
    if not exists (
        select from pg_trigger
        where tgname = 'animora_notify_unblock' and tgrelid = 'public.block_relations'::regclass
    ) then
        create constraint trigger animora_notify_unblock
        after delete or update on public.block_relations
        deferrable initially deferred
        for each row
        execute function animora.notify_unblock();
    end if;
end
$$;

-- A post whose author is removed leaves the view, like a deleted post.
create or replace trigger animora_notify_deleted
after update on public.posts
for each row
when (
    old.index is not null and (
        (old.deleted_at is null and new.deleted_at is not null)
        or (old.user_posts is not null and new.user_posts is null)
        or old.index is distinct from new.index
    )
)
execute function animora.notify_deleted();

create or replace trigger animora_notify_gone
after delete on public.posts
referencing old table as gone
for each statement
execute function animora.notify_gone();
