-- Triggers that notify the servers of blocks and deletions with their commit, over the channel `animora`:
--
--   block 12 34      user 12 blocks user 34
--   unblock 12 34    user 12 no longer blocks user 34
--   delete 56 57     these posts are deleted, or marked as deleted
--
-- Without these triggers the servers see blocks and marks at their next poll, and deleted rows at their next
-- reconcile. An application with its own tables may send the same (adapter_original.sql is an example).
-- TRUNCATE, and writes with session_replication_role = replica, as replication makes them, send nothing.
-- A transaction that notifies cannot be prepared for a two-phase commit. One that deletes or changes blocks must
-- execute `set constraints all immediate` before it truncates or alters their table.
-- Idempotent.

create or replace function animora_app.notify_block() returns trigger
language plpgsql as $$
begin
    perform pg_notify('animora', format('block %s %s', new.blocker_id, new.blocked_id));
    return null;
end
$$;

create or replace function animora_app.notify_unblock() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (
        select from animora_app.block_relations
        where blocker_id = old.blocker_id and blocked_id = old.blocked_id
    ) then
        perform pg_notify('animora', format('unblock %s %s', old.blocker_id, old.blocked_id));
    end if;
    return null;
end
$$;

create or replace function animora_app.notify_deleted() returns trigger
language plpgsql as $$
begin
    perform pg_notify('animora', format('delete %s', old.id));
    return null;
end
$$;

-- One notification for many rows, since deleting a user deletes all their posts. A payload must be below 8000
-- bytes, and an id takes 21 at most.
create or replace function animora_app.notify_gone() returns trigger
language plpgsql as $$
begin
    perform pg_notify('animora', 'delete ' || string_agg(id::text, ' '))
    from (
        select id, (row_number() over () - 1) / 300 as part
        from gone
        where deleted_at is null
    ) as numbered
    group by part;
    return null;
end
$$;

create or replace trigger notify_block
after insert or update on animora_app.block_relations
for each row
execute function animora_app.notify_block();

-- Deferred to the commit, because PostgreSQL sends equal payloads of a transaction once, at the first place: of
-- "block, unblock, block" the last would be lost. `create or replace` does not exist for such a trigger.
do $$
begin
    if not exists (
        select from pg_trigger
        where tgname = 'notify_unblock' and tgrelid = 'animora_app.block_relations'::regclass
    ) then
        create constraint trigger notify_unblock
        after delete or update on animora_app.block_relations
        deferrable initially deferred
        for each row
        execute function animora_app.notify_unblock();
    end if;
end
$$;

create or replace trigger notify_deleted
after update on animora_app.posts
for each row
when ((old.deleted_at is null and new.deleted_at is not null) or old.id <> new.id)
execute function animora_app.notify_deleted();

create or replace trigger notify_gone
after delete on animora_app.posts
referencing old table as gone
for each statement
execute function animora_app.notify_gone();
