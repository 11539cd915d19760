-- The role that the server and the trainer connect as: it reads the four views and nothing else.
--
-- It has no password, so it cannot log in where one is required, until you set it:
--   alter role animora_reader password '...';
-- Views run with their owner's rights, so the role needs none on the tables below them.
-- Idempotent. Apply it again after a view was dropped and created. If the role exists, no right to create roles
-- is needed.

do $$
begin
    if not exists (select from pg_roles where rolname = 'animora_reader') then
        create role animora_reader login;
        alter role animora_reader set default_transaction_read_only = on;
    end if;
exception
    -- Roles belong to the whole cluster: another session has just created it from another database.
    when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema animora to animora_reader;
grant select on animora.users, animora.posts, animora.interactions, animora.blocks to animora_reader;
