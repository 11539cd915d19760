-- The four views that the server and the trainer read, over Animora's own tables.
--
-- They are the whole contract with the database: an application with other tables defines these four views, with
-- these names, columns and types (adapter_original.sql is an example).
--
--   users         all users that occur as user_id or author_id
--   posts         publicly visible posts; a deleted post stays, with deleted_at set, or disappears;
--                 updated_at is the last change of any column of the view or of the post's visibility,
--                 null if there was none
--   interactions  a row a like and a row a comment; several comments of one user on a post are several rows
--   blocks        hides the posts of both users from each other
--
-- Embeddings are real[], double precision[], vector(n) or halfvec(n), null until they are computed, all of one
-- width. Times have a zone. Rows without an id, an author or a time are left out; docs/data.md has the rules.
-- Idempotent.

create schema if not exists animora;

create or replace view animora.users as
select id
from animora_app.users;

create or replace view animora.posts as
select id, author_id, created_at, updated_at, deleted_at, image_embedding, caption_embedding
from animora_app.posts;

create or replace view animora.interactions as
select user_id, post_id, 'like'::text as kind, created_at
from animora_app.likes
union all
select user_id, post_id, 'comment'::text as kind, created_at
from animora_app.comments;

create or replace view animora.blocks as
select blocker_id, blocked_id, created_at
from animora_app.block_relations;
