//! Starts the servers that tests need, for trying things by hand, says how they are reached, and ends them with itself.

use sitemon_testkit::kafka::{self, Kafka};
use sitemon_testkit::postgres::Postgres;
use std::io::Write as _;

fn main() -> anyhow::Result<()> {
    let postgres = Postgres::start()?;
    let kafka = Kafka::start(1)?;
    let mut out = std::io::stdout();
    writeln!(out, "PostgreSQL   store: {{kind: postgres, dsn: '{}'}}", postgres.database()?)?;
    writeln!(out, "  with TLS   sslmode=verify-full, tls: {{ca: {}}}", postgres.tls_file("ca.pem").display())?;
    writeln!(out, "  by SQL     psql -h {} -p {} -U postgres", postgres.folder().display(), postgres.port())?;
    writeln!(out, "Apache Kafka bus: {{kind: kafka, brokers: [{}], replication: 1}}", kafka.plain().join(", "))?;
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|name| kafka.tls_file(name));
    let (ca, certificate, key) = (ca.display(), certificate.display(), key.display());
    writeln!(out, "  with TLS   brokers: [{}]", kafka.tls().join(", "))?;
    writeln!(out, "             tls: {{ca: {ca}, certificate: {certificate}, key: {key}}}")?;
    writeln!(out, "  with SASL  brokers: [{}], tls: {{ca: {ca}}}", kafka.sasl().join(", "))?;
    let (user, password) = (kafka::USER, kafka::PASSWORD);
    writeln!(out, "             sasl: {{mechanism: SCRAM-SHA-512, username: {user}, password: {password}}}")?;
    writeln!(out, "Ctrl-C ends all of them and removes what they stored.")?;
    out.flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = tokio::signal::ctrl_c() => ended,
            _ = terminate.recv() => Ok(()),
        }
    })?;
    Ok(())
}
