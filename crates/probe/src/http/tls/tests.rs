//! What is said of certificates, and that no chain is accepted because of what is remembered of another.

use super::*;
use sitemon_testkit::{Authority, Curve, Identity, Order};
use std::time::{Duration, SystemTime};

#[test]
fn names_of_a_certificate_are_told_plainly() {
    let expected = ServerName::try_from("good.example").expect("a name");
    let presented = vec!["DnsName(\"other.example\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()];
    let cause = cause_of_certificate(&CertificateError::NotValidForNameContext { expected, presented });
    assert_eq!(cause.code, Code::TlsNameMismatch);
    assert_eq!(&*cause.message, "the certificate is for other.example, 127.0.0.1, not for good.example");
}

#[test]
fn names_are_escaped() {
    assert_eq!(escaped("Example, Inc."), "Example\\, Inc.");
    assert_eq!(escaped(" # "), "\\ #\\ ");
    assert_eq!(escaped("#a"), "\\#a");
}

#[test]
fn server_names() {
    assert!(matches!(server_name("[::1]"), Some(ServerName::IpAddress(_))));
    assert!(matches!(server_name("a.example."), Some(ServerName::DnsName(_))));
    assert!(server_name("a b").is_none());
}

/// What one handshake is judged by.
#[derive(Clone, Copy)]
struct Shows<'a> {
    chain: &'a [CertificateDer<'static>],
    trust: &'a Arc<Trust>,
    name: &'a str,
    /// Seconds since the epoch.
    at: u64,
}

/// So many seconds from now.
fn from_now(seconds: i64) -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().saturating_add_signed(seconds)
}

/// Whether a handshake that shows this is accepted, with what is remembered there.
fn accepts(certificates: &Arc<Certificates>, shows: Shows<'_>) -> Result<(), String> {
    let trust = Some(shows.trust.clone());
    let verifier = Verifier { certificates: certificates.clone(), trust, shown: Mutex::default() };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(shows.at));
    let name = server_name(shows.name).unwrap();
    let (end_entity, intermediates) = shows.chain.split_first().unwrap();
    let result = verifier.verify_server_cert(end_entity, intermediates, &name, &[], now);
    result.map(|_| ()).map_err(|error| error.to_string())
}

/// What is remembered never changes what is decided: whatever is shown after a good chain was accepted is judged as
/// by one who saw nothing before.
#[test]
fn what_is_remembered_decides_nothing() {
    let order = Order::new(["a.example"]).valid_for(Duration::from_hours(1));
    let trust_of = |authority: &Authority| Arc::new(Trust::of_pem(authority.root_pem().as_bytes()).unwrap());
    let ours = Authority::with_intermediate(Curve::P384).unwrap();
    let theirs = Authority::with_intermediate(Curve::P256).unwrap();
    let good = ours.issue(&order).unwrap().chain;
    let trust = trust_of(&ours);
    let warm = Arc::new(Certificates::default());
    let shows = Shows { chain: &good, trust: &trust, name: "a.example", at: from_now(0) };
    for _ in 0..2 {
        assert_eq!(accepts(&warm, shows), Ok(()));
    }
    let as_if_new = |shows: Shows<'_>| {
        let (known, new) = (accepts(&warm, shows), accepts(&Arc::default(), shows));
        assert_eq!(known, new);
        known
    };

    // Other roots, as after a reload that no longer trusts the authority; the same roots read once more.
    assert!(as_if_new(Shows { trust: &trust_of(&theirs), ..shows }).is_err());
    assert!(as_if_new(Shows { trust: &trust_of(&ours), ..shows }).is_ok());
    // Another name.
    assert!(as_if_new(Shows { name: "b.example", ..shows }).is_err());
    // Another time: the certificate begins a day ago and ends in an hour.
    let day = 86_400;
    for (seconds, good) in [(-day - 60, false), (-day + 60, true), (3_540, true), (3_660, false), (60 * day, false)] {
        assert_eq!(as_if_new(Shows { at: from_now(seconds), ..shows }).is_ok(), good, "{seconds} s from now");
    }
    // Another chain for the same name.
    let (leaf, middle) = (&good[0], &good[1]);
    let other = ours.issue(&order).unwrap().chain;
    let foreign = theirs.issue(&order).unwrap().chain;
    let alone = Identity::self_signed(&order).unwrap().chain;
    for (chain, good) in [
        (vec![leaf.clone()], false),
        (vec![middle.clone()], false),
        (vec![middle.clone(), leaf.clone()], false),
        (vec![leaf.clone(), foreign[1].clone()], false),
        (vec![foreign[0].clone(), middle.clone()], false),
        (vec![leaf.clone(), foreign[1].clone(), middle.clone()], true),
        (vec![leaf.clone(), middle.clone(), middle.clone()], true),
        (vec![leaf.clone(), middle.clone(), ours.root()], true),
        (other, true),
        (foreign, false),
        (alone, false),
    ] {
        assert_eq!(as_if_new(Shows { chain: &chain, ..shows }).is_ok(), good, "{} certificates", chain.len());
    }
    // Altered in one byte, wherever that is: nothing in a chain is without a signature.
    for index in 0..good.len() {
        for at in 0..good[index].len() {
            let mut chain = good.clone();
            let mut bytes = chain[index].to_vec();
            bytes[at] ^= 1;
            chain[index] = bytes.into();
            assert!(accepts(&warm, Shows { chain: &chain, ..shows }).is_err(), "byte {at} of certificate {index}");
        }
    }
    // And after all that the good one is still good.
    assert_eq!(as_if_new(shows), Ok(()));
}

/// A certificate that is trusted as it is, because `tls.ca` names it, is held against the clock each time too.
#[test]
fn a_certificate_that_is_trusted_itself_is_remembered_no_longer_than_it_holds() {
    let order = Order::new(["a.example"]).valid_for(Duration::from_hours(1));
    let identity = Identity::self_signed(&order).unwrap();
    let trust = Arc::new(Trust::of_pem(identity.chain_pem().as_bytes()).unwrap());
    let warm = Arc::new(Certificates::default());
    for (seconds, good) in [(0, true), (0, true), (3_660, false), (-90_000, false), (0, true)] {
        let shows = Shows { chain: &identity.chain, trust: &trust, name: "a.example", at: from_now(seconds) };
        assert_eq!(accepts(&warm, shows).is_ok(), good, "{seconds} s from now");
        assert_eq!(accepts(&warm, shows), accepts(&Arc::default(), shows));
    }
}

/// The bound on what is remembered forgets, and never confuses.
#[test]
fn forgetting_is_verifying_again() {
    let order = Order::new(["a.example"]);
    let (ours, theirs) = (Authority::new(Curve::P256).unwrap(), Authority::new(Curve::P256).unwrap());
    let chain = ours.issue(&order).unwrap().chain;
    let warm = Arc::new(Certificates::default());
    for round in 0..=2 * TRUSTS_MAX {
        let pem = if round % 2 == 0 { ours.root_pem() } else { theirs.root_pem() };
        let trust = Arc::new(Trust::of_pem(pem.as_bytes()).unwrap());
        let shows = Shows { chain: &chain, trust: &trust, name: "a.example", at: from_now(0) };
        assert_eq!(accepts(&warm, shows).is_ok(), round % 2 == 0);
    }
    let held = warm.chain(&chain[0], &[]).verified.lock().unwrap().len();
    assert!((1..=TRUSTS_MAX).contains(&held), "{held}");
}

#[test]
fn chains_are_kept_within_their_bytes() {
    let chain = |bytes: usize| Arc::new(Chain::read(&CertificateDer::from(vec![0; bytes]), &[]));
    let mut chains = Chains::default();
    chains.keep(0, &chain(CHAIN_BYTES_MAX + 1));
    assert_eq!((chains.by_hash.len(), chains.bytes), (0, 0));
    let large = chain(CHAIN_BYTES_MAX);
    for key in 0..10_000 {
        chains.keep(key, &large);
        chains.keep(key, &large);
        assert!(chains.bytes <= CHAINS_BYTES_MAX);
        assert_eq!(chains.bytes, chains.by_hash.len() * CHAIN_BYTES_MAX);
    }
}
