-- Tells the servers of blocks and deletions the moment they are committed, over the channel `animora`:
--
--   block 12 34      user 12 blocks user 34
--   unblock 12 34    user 12 no longer does
--   delete 56 57     these posts are gone, or were marked as deleted
--
-- Without these triggers the servers find out with their next poll (blocks, marks) and reconcile (rows that
-- are gone). An application with tables of its own may send the same (adapter_original.sql is an example).
-- Neither TRUNCATE is told, nor what is written with session_replication_role = replica, as replication does.
-- A transaction that notifies cannot be prepared for a two-phase commit. One that takes blocks back, or changes
-- them, has to say `set constraints all immediate` before it may truncate or alter their table.
-- May be applied again at any time.

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

-- One notification for many rows, since a user who leaves takes all their posts along. A payload has to stay
-- below 8000 bytes, and an id takes 21 at most.
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

-- At the commit, because PostgreSQL sends a payload once a transaction, at its first place: of "block, unblock,
-- block" the last would be lost. There is no `create or replace` for such a trigger.
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
