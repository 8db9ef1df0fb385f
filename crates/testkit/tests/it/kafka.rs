//! The brokers: each answers on its listeners, comes back after it was killed, and ends with whoever started it.

use sitemon_testkit::kafka::Kafka;
use std::net::TcpStream;

fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test]
fn three_know_each_other_and_one_comes_back() {
    let mut kafka = Kafka::start(3).unwrap_or_else(|error| panic!("{error:#}"));
    let everywhere: Vec<String> = [kafka.plain(), kafka.tls(), kafka.sasl()].concat();
    assert_eq!(everywhere.len(), 9);
    assert!(everywhere.iter().all(|address| listens(address)), "{everywhere:?}");
    let second = kafka.plain().remove(1);
    kafka.kill(1).unwrap();
    assert!(!listens(&second));
    // Started means that it knows the others again.
    kafka.run(1).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(listens(&second));
    let folder = kafka.tls_file("ca.pem").ancestors().nth(2).unwrap().to_owned();
    assert!(folder.is_dir());
    drop(kafka);
    assert!(!folder.exists() && !everywhere.iter().any(|address| listens(address)));
}
