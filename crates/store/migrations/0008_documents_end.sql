-- A document that is no sandbox's may go with the record of one all the same, and by itself at a time.
alter table documents add column until_us integer;
alter table documents add column sandbox text;

create index documents_until on documents (until_us) where until_us is not null;
create index documents_with_sandbox on documents (sandbox) where sandbox is not null;

create trigger documents_with_sandbox after delete on sandboxes begin
    delete from documents where sandbox = old.id;
end;
