-- The quick start's database: a role that lockgate logs in as, orders, and customers whose data is masked.
CREATE ROLE app LOGIN PASSWORD 'quick-start-app';
CREATE DATABASE shop OWNER app;
\connect shop
SET ROLE app;
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, ssn text, card_number text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, amount numeric, note text);
INSERT INTO customers VALUES
  (1, 'Ana Ruiz', 'ana.ruiz@example.com', '123-45-6789', '4111111111111111'),
  (2, 'Bo Lind', 'bo.lind@example.com', '987-65-4320', '5500000000000004');
INSERT INTO orders VALUES (1, 1, 10.50, 'first'), (2, 2, 20, NULL);
