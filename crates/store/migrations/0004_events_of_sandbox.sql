-- A follower of one sandbox reads its events alone, without looking at those of the tenant's other sandboxes.
create index events_of_sandbox on events (tenant, sandbox, number);
