-- What a sandbox may reach is in its spec, and can be changed while it lives.
drop trigger sandbox_updated on caisson.sandboxes;

create trigger sandbox_updated after update on caisson.sandboxes for each row
    when (new.state <> 'ended' and (new.lifetime_us is distinct from old.lifetime_us
        or new.idle_timeout_us is distinct from old.idle_timeout_us or new.metadata <> old.metadata or new.spec <> old.spec))
    execute function caisson.tell_of_sandbox('sandbox.updated');
