//! A client that binds a value and asks for binary results, as drivers do: `lockgate-binary-client HOST PORT DATABASE
//! STATEMENT` runs the statement with `$1 = 1` and prints its first row.

use anyhow::{Context, Result, bail};
use tokio_postgres::{NoTls, types::Type};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, database, statement] = arguments.as_slice() else {
        bail!("usage: lockgate-binary-client HOST PORT DATABASE STATEMENT");
    };
    let settings = format!("host={host} port={port} dbname={database} user=driver");
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one(statement, &[&1_i32]).await?;
    let fields = row.columns().iter().enumerate().map(|(index, column)| match *column.type_() {
        Type::INT4 => row.try_get::<_, Option<i32>>(index).map(|value| value.map(|value| value.to_string())),
        _ => row.try_get::<_, Option<String>>(index),
    });
    let fields: Vec<String> = fields
        .map(|field| field.map(|value| value.unwrap_or_default()))
        .collect::<Result<_, _>>()
        .context("a column is neither int4 nor text")?;
    println!("{}", fields.join("|"));
    drop(client);
    connection.await??;
    Ok(())
}
