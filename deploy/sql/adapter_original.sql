-- The four views over the schema of the application that Animora was first built for. Apply this file in
-- place of 010_tables.sql and 020_views.sql, then 030_reader.sql.
--
--   public.users(id uuid, index)
--   public.posts(id uuid, index, user_posts, created_at, deleted_at, image_feature, text_feature)
--   public.likes(id, user_likes, post_likes, created_at)
--   public.comments(id, user_comments, post_comments, created_at)
--   public.block_relations(user_blocking, user_blocked_by)
--
-- Ids are the integer columns `index`, since Animora's are 64-bit integers. A row that points nowhere is left
-- out. Features are JSON text of 768 floats; anything else is null, as if it had not been computed.
-- Posts carry no time of change there, so updated_at is null; blocks carry no time at all, so theirs is the
-- epoch. Times without a zone are read in the session's.
-- May be applied again at any time.

create schema if not exists animora;

-- PostgreSQL's own array syntax differs from a JSON list of numbers in its brackets alone, and reads several
-- times faster than going through json.
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

create or replace view animora.users as
select index::bigint as id
from public.users;

create or replace view animora.posts as
select
    post.index::bigint as id,
    author.index::bigint as author_id,
    post.created_at::timestamptz as created_at,
    null::timestamptz as updated_at,
    post.deleted_at::timestamptz as deleted_at,
    animora.parse_features(post.image_feature::text, 768) as image_embedding,
    animora.parse_features(post.text_feature::text, 768) as caption_embedding
from public.posts as post
join public.users as author on author.id = post.user_posts;

create or replace view animora.interactions as
select
    fan.index::bigint as user_id,
    post.index::bigint as post_id,
    'like'::text as kind,
    liked.created_at::timestamptz as created_at
from public.likes as liked
join public.users as fan on fan.id = liked.user_likes
join public.posts as post on post.id = liked.post_likes
union all
select
    fan.index::bigint as user_id,
    post.index::bigint as post_id,
    'comment'::text as kind,
    commented.created_at::timestamptz as created_at
from public.comments as commented
join public.users as fan on fan.id = commented.user_comments
join public.posts as post on post.id = commented.post_comments;

create or replace view animora.blocks as
select
    blocker.index::bigint as blocker_id,
    blocked.index::bigint as blocked_id,
    'epoch'::timestamptz as created_at
from public.block_relations as relation
join public.users as blocker on blocker.id = relation.user_blocking
join public.users as blocked on blocked.id = relation.user_blocked_by;
