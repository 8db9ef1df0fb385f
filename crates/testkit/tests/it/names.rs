//! The faulty name server, asked by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use sitemon_testkit::{FaultyNames, NameFault};

use crate::client::{LONG, PATIENCE};

const ID: u16 = 4711;

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Brief where nothing may come.
fn patience(name: &str) -> Duration {
    let silent = ["dns-hang", "dns-second", "dns-only-aaaa", "dns-truncated-hang"];
    if silent.iter().any(|fault| name.starts_with(fault)) { PATIENCE } else { LONG }
}

/// By UDP: the datagram that comes, or nothing.
fn raw(names: &FaultyNames, name: &str, kind: RecordType) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(patience(name))).unwrap();
    socket.send_to(&question(name, kind), names.address()).unwrap();
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

fn ask(names: &FaultyNames, name: &str, kind: RecordType) -> Message {
    Message::from_vec(&raw(names, name, kind).expect(name)).unwrap()
}

fn ask_by_tcp(names: &FaultyNames, name: &str) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(names.address())?;
    stream.set_read_timeout(Some(patience(name)))?;
    let question = question(name, RecordType::A);
    stream.write_all(&(question.len() as u16).to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(Message::from_vec(&bytes).unwrap())
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        RData::AAAA(address) => Some(IpAddr::from(address.0)),
        _ => None,
    };
    message.answers.iter().filter_map(|record| address(&record.data)).collect()
}

#[test]
fn names_have_the_addresses_that_are_set() {
    let names = FaultyNames::start().unwrap();
    let local: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(addresses(&ask(&names, "any.site.test", RecordType::A)), local[..1]);
    assert_eq!(addresses(&ask(&names, "any.site.test", RecordType::AAAA)), local[1..]);
    let other: SocketAddr = "127.0.0.9:1".parse().unwrap();
    names.set_addresses("Shop.Example", &[other.ip()]).unwrap();
    names.set("*.example", "dns-nxdomain").unwrap();
    assert_eq!(addresses(&ask(&names, "shop.example", RecordType::A)), [other.ip()]);
    assert_eq!(addresses(&ask(&names, "shop.example", RecordType::AAAA)), [] as [IpAddr; 0]);
    assert_eq!(ask(&names, "x.y.example", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    names.set("ttl.example", "dns-addresses?ttl=7&a=127.0.0.1&a=127.0.0.2").unwrap();
    let message = ask(&names, "ttl.example", RecordType::A);
    assert_eq!(message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [7, 7]);
    let asked = names.asked("shop.example");
    assert_eq!(asked.iter().map(|asking| asking.kind.as_str()).collect::<Vec<_>>(), ["A", "AAAA"]);
    assert!(names.set("x", "no-such-fault").is_err());
}

#[test]
fn every_name_fault_is_seen_on_the_wire() {
    let names = FaultyNames::start().unwrap();
    for fault in NameFault::ALL {
        let name = format!("{}.fault.test", fault.name);
        let begun = Instant::now();
        let bytes = raw(&names, &name, RecordType::A);
        let took = begun.elapsed();
        let message = bytes.as_deref().and_then(|bytes| Message::from_vec(bytes).ok());
        let code = message.as_ref().map(|message| message.metadata.response_code);
        let found = message.as_ref().map(addresses).unwrap_or_default().len();
        let truncated = message.as_ref().is_some_and(|message| message.metadata.truncation);
        let right_id = bytes.as_deref().is_some_and(|bytes| bytes[..2] == ID.to_be_bytes());
        let good = code == Some(ResponseCode::NoError) && right_id;
        let ok = match fault.name {
            "dns-addresses" | "dns-v4" | "dns-only-a" => good && found == 1,
            "dns-v6" | "dns-nodata" | "dns-lame" => good && found == 0,
            "dns-many" => good && truncated && addresses(&ask_by_tcp(&names, &name).unwrap()).len() == 40,
            "dns-only-aaaa" => bytes.is_none() && addresses(&ask(&names, &name, RecordType::AAAA)).len() == 1,
            "dns-slow" => good && took.as_millis() >= 200,
            "dns-cname" => good && found == 1 && message.is_some_and(|message| message.answers.len() == 4),
            "dns-cname-apart" => good && found == 0 && message.is_some_and(|message| message.answers.len() == 1),
            "dns-cname-loop" => good && found == 0 && message.is_some_and(|message| message.answers.len() == 2),
            "dns-cname-dangling" | "dns-nxdomain" => code == Some(ResponseCode::NXDomain),
            "dns-truncated" => truncated && addresses(&ask_by_tcp(&names, &name).unwrap()).len() == 1,
            "dns-truncated-close" => {
                truncated && ask_by_tcp(&names, &name).unwrap_err().kind() == ErrorKind::UnexpectedEof
            }
            "dns-truncated-hang" => truncated && ask_by_tcp(&names, &name).unwrap_err().kind() == ErrorKind::WouldBlock,
            "dns-second" => bytes.is_none() && addresses(&ask(&names, &name, RecordType::A)).len() == 1,
            "dns-decoy" | "dns-wrong-id" => code == Some(ResponseCode::NoError) && !right_id,
            "dns-servfail" => code == Some(ResponseCode::ServFail),
            "dns-refused" => code == Some(ResponseCode::Refused),
            "dns-notimp" => code == Some(ResponseCode::NotImp),
            "dns-formerr" => code == Some(ResponseCode::FormErr),
            "dns-garbage" | "dns-short" => bytes.is_some() && message.is_none(),
            "dns-wrong-question" => {
                good && message.is_some_and(|message| message.queries[0].name().to_string() == "another.fault.test.")
            }
            "dns-hang" => bytes.is_none(),
            other => panic!("{other} has no test"),
        };
        assert!(ok, "{}: {bytes:?} after {took:?}", fault.name);
    }
}
