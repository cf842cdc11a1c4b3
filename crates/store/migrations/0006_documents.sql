-- What dialects keep, each for itself. The text is JSON and nobody's business but theirs.
create table documents (
    number integer primary key,
    kind   text    not null,
    owner  text    not null,
    id     text    not null,
    body   text    not null,
    unique (kind, owner, id)
) strict;

create index documents_of_owner on documents (owner);

-- What is kept about a sandbox goes with its record.
create trigger documents_of_sandbox after delete on sandboxes begin
    delete from documents where owner = old.id;
end;
