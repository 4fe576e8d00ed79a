create table customers (
  id int primary key, name text not null, ssn text unique, card varchar(32), passphrase text, salary int,
  balance numeric(16,4), born date, seen timestamp, profile jsonb, photo bytea, tags text[], codes int[], token uuid
);
insert into customers values
 (1, 'Ada Lovelace', '<<ssn1>>', '<<card1>>', '<<pass1>>', <<salary1>>, <<balance1>>, '<<born1>>', '<<seen1>>',
  '{"vault": "<<vault1>>"}', '<<photo1>>', '{<<tag1>>}', '{<<code1>>,7}', '<<token1>>'),
 (2, 'Grace Hopper', '<<ssn2>>', '<<card2>>', '<<pass2>>', <<salary2>>, <<balance2>>, '<<born2>>', '<<seen2>>',
  '{"vault": "<<vault2>>"}', '<<photo2>>', '{<<tag2>>}', '{<<code2>>,8}', '<<token2>>');
insert into customers (id, name) values (3, 'Alan Turing');
create table orders (id serial primary key, customer int references customers, amount int not null default 5, note text);
insert into orders (customer, note) values (1, 'plain note'), (2, 'paid with <<pan1>>');
create table notes (id serial primary key, body text unique);
insert into notes (body) values ('first note'), ('second note');
create table ledger (id int primary key, amount int check (amount > 0));
insert into ledger values (1, 10), (2, 20);
create table payments (id int not null, day date not null, iban text) partition by range (day);
create table payments_2024 partition of payments for values from ('2024-01-01') to ('2025-01-01');
create table payments_old partition of payments default;
insert into payments values (1, '2024-05-05', '<<iban1>>'), (2, '2020-01-01', '<<iban2>>');
create view people as select id, name, ssn as number from customers;
create view directory as select id, name from customers;
create view people_of_people as select number as n from people;
create view whole as select c as row from customers c;
create materialized view archive as select id, passphrase as words from customers;
create function purge() returns int language plpgsql as $$ begin delete from notes; return 1; end $$;
create procedure wipe() language plpgsql as $$ begin delete from notes; end $$;
create function tell() returns text language sql as $$ select ssn from customers where id = 1 $$;
create function cry() returns text language plpgsql as $$ declare s text; begin select ssn into s from customers where id = 1; raise notice 'it is %', s; return 'x'; end $$;
create role bypass_reader;
analyze;
