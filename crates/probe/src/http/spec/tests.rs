//! What is read, what is refused and in which words, and that what is shown is read again.

use super::parse::{PATTERN_BYTES_LEAST, bytes_most};
use super::{Auth, ConnectTo, ProxyScheme, Resolver, parse, show, validate_url};
use crate::{Common, Files, Unread};
use sitemon_model::tree::{At, Faults, Node};
use std::sync::Arc;

fn common() -> Common {
    let files = Files::new(|_, path| match path {
        "token" => Ok(Arc::from(&b"abc\r\n"[..])),
        "body" => Ok(Arc::from(&b"a: 1\n"[..])),
        path => Err(Unread { path: path.to_owned(), reason: "no such file".to_owned() }),
    });
    Common { secure: Some(false), files, ..Common::default() }
}

/// The faults of a site with these keys, each `path: message`.
fn faults(keys: &serde_json::Value) -> Vec<String> {
    let node = Node::from_json(keys);
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "").map(&mut faults);
    let parsed = parse(&mut fields, &common(), &mut faults);
    fields.finish(&mut faults);
    assert_eq!(parsed.is_none(), faults.any_errors());
    faults.0.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
}

fn check(keys: &serde_json::Value, expected: &[&str]) {
    assert_eq!(faults(keys), expected, "{keys}");
}

#[test]
fn everything_is_read_and_shown() {
    let keys = serde_json::json!({
        "request": {
            "method": "post", "headers": {"Accept": "text/html", "cookie": "a=b", "x-token": {"file": "token"}},
            "body_file": "body", "auth": {"basic": {"username": "u", "password": "p"}}, "redirects": 0,
            "http": 1.1, "ip": 6, "resolver": ["127.0.0.1:5353", "::1"], "dns_cache": "ttl",
            "connect_to": "[::1]:443", "proxy": "socks5h://u%40x:p@localhost", "connection": "reuse",
            "tls": {"server_name": "shop.example", "insecure": true}, "connect_timeout": "250ms",
            "limits": {"body_wire": "1KiB", "match": 10, "idle_connections": 3}
        },
        "expect": {
            "status": [200, "300-399", "4xx"], "http_version": ["2", 1.1], "headers": {"Content-Type": "^text/"},
            "body": {
                "matches": ["a"], "matches_any": ["b", "c"], "absent": ["d"], "extract": {"n": "(\\d+)"},
                "json": [{"path": "$.a", "equals": null}, {"path": "$.b", "less": 3, "exists": true}],
                "size": {"min": 1, "max": "1MiB"}
            },
            "response_time": 2, "certificate": {"degraded": "14d", "down": "1d"}
        }
    });
    let node = Node::from_json(&keys);
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "").map(&mut faults);
    let (request, expect) = parse(&mut fields, &common(), &mut faults).expect("no faults");
    assert_eq!(faults.0.len(), 1, "the warning about a certificate at http://");
    assert_eq!(&*request.method, "POST");
    assert!(matches!(&request.auth, Some(Auth::Basic { username, .. }) if username == "u"));
    assert_eq!(&*request.headers[2].value, "abc");
    assert!(request.headers[1].secret && request.headers[2].secret && !request.headers[0].secret);
    assert_eq!(&*request.body, b"a: 1\n");
    assert_eq!(request.connect_to, Some(ConnectTo { host: "::1".into(), port: 443 }));
    let proxy = request.proxy.clone().expect("given");
    assert_eq!((proxy.scheme, proxy.port), (ProxyScheme::Socks5h, 1080));
    assert_eq!(proxy.credentials, Some(("u@x".to_owned(), "p".to_owned())));
    assert!(matches!(&request.resolver, Resolver::Servers(servers) if servers[1].to_string() == "[::1]:53"));
    assert_eq!(expect.status, [(200, 200), (300, 399), (400, 499)]);
    assert_eq!(expect.body.json[0].test.equals, Some(serde_json::Value::Null));

    let shown = show(&request, &expect);
    expect_test::expect![[r#"{"request":{"method":"POST","headers":{"accept":"text/html","cookie":"(hidden)","x-token":"(hidden)"},"body":"a: 1\n","auth":{"basic":{"username":"(hidden)","password":"(hidden)"}},"redirects":0,"http":"1.1","ip":"6","resolver":["127.0.0.1:5353","[::1]:53"],"dns_cache":"ttl","connect_to":"[::1]:443","proxy":"socks5h://(hidden)@localhost:1080","connection":"reuse","tls":{"server_name":"shop.example","insecure":true},"connect_timeout":"250ms","limits":{"body_wire":"1KiB","body_decoded":"50MiB","body_held":"1MiB","match":"10","headers":"64KiB","idle_connections":3}},"expect":{"status":[200,"300-399","400-499"],"http_version":["2","1.1"],"headers":{"content-type":"^text/"},"body":{"matches":["a"],"matches_any":["b","c"],"absent":["d"],"extract":{"n":"(\\d+)"},"json":[{"path":"$.a","equals":null},{"path":"$.b","less":3.0,"exists":true}],"size":{"min":"1","max":"1MiB"}},"response_time":"2s","certificate":{"degraded":"14d","down":"1d"}}}"#]]
    .assert_eq(&serde_json::Value::Object(shown.clone()).to_string());

    // What is shown, secrets aside, means the same when it is read again.
    let mut again = serde_json::Value::Object(shown.clone());
    again["request"]["headers"] = serde_json::json!({"accept": "text/html"});
    let node = Node::from_json(&again);
    let mut fields = At::new(&node, "").map(&mut faults);
    let (request, expect) = parse(&mut fields, &common(), &mut faults).expect("what is shown can be read");
    assert_eq!(show(&request, &expect)["expect"], shown["expect"]);
}

#[test]
fn faults_say_what_was_expected() {
    use serde_json::json;
    check(&json!({"request": {"metod": "GET"}}), &["request.metod: unknown key `metod`, did you mean `method`?"]);
    check(
        &json!({"request": {"method": "G T"}}),
        &["request.method: `G T`, expected a method such as GET, HEAD or POST"],
    );
    check(
        &json!({"request": {"headers": {"content-length": "5", "a b": "x"}}}),
        &[
            "request.headers.content-length: `content-length` belongs to the connection and is set by Sitemon",
            "request.headers[\"a b\"]: `a b` is no name of a header",
        ],
    );
    check(
        &json!({"request": {"headers": {"x": "a\nb"}}}),
        &["request.headers.x: holds a control character, expected a text of one line"],
    );
    check(
        &json!({"request": {"body": "x", "body_file": "body"}}),
        &["request.body_file: is given together with `body`, expected one of them"],
    );
    check(&json!({"request": {"body_file": "gone"}}), &["request.body_file: cannot read gone: no such file"]);
    check(&json!({"request": {"auth": {}}}), &["request.auth: expected one of: basic, bearer"]);
    check(
        &json!({"request": {"auth": {"basic": {"username": "u"}}}}),
        &["request.auth.basic.password: is missing, expected a text"],
    );
    check(&json!({"request": {"redirects": -1}}), &["request.redirects: `-1`, expected a whole number"]);
    check(&json!({"request": {"http": 3}}), &["request.http: `3`, expected one of: auto, 1.1, 2"]);
    check(
        &json!({"request": {"resolver": "dns"}}),
        &["request.resolver: `dns`, expected system, libc, or a list of ADDRESS:PORT"],
    );
    check(
        &json!({"request": {"headers": {"host": "a b"}}}),
        &["request.headers.host: is no host, expected a name or an address, and perhaps a port"],
    );
    check(
        &json!({"request": {"ip": 6, "connect_to": "192.0.2.1:80"}}),
        &["request.ip: leaves out the address in `connect_to`, 192.0.2.1, expected 4 or any"],
    );
    check(
        &json!({"request": {"ip": 4, "proxy": "http://[2001:db8::1]:80", "connect_to": "[2001:db8::2]:80"}}),
        &["request.ip: leaves out the address in `proxy`, 2001:db8::1, expected 6 or any"],
    );
    check(&json!({"request": {"connect_to": "::1"}}), &["request.connect_to: `::1`, expected ADDRESS:PORT"]);
    check(
        &json!({"request": {"proxy": "https://u:p@x"}}),
        &["request.proxy: is no proxy, expected http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT"],
    );
    check(
        &json!({"request": {"tls": {"ca": "body"}}}),
        &["request.tls.ca: holds no certificate, expected them in PEM"],
    );
    check(
        &json!({"request": {"tls": {"key": "body"}}}),
        &["request.tls.key: is given without `certificate`, expected both"],
    );
    check(&json!({"request": {"limits": {"match": 0}}}), &["request.limits.match: `0`, expected more than nothing"]);
    check(&json!({"expect": {"status": {}}}), &["expect.status: a map, expected a list"]);
    check(
        &json!({"expect": {"status": ["299-200"]}}),
        &["expect.status[0]: `299-200`, expected a status such as 200, 200-299 or 2xx"],
    );
    check(
        &json!({"expect": {"body": {"matches": ["ä(b"]}}}),
        &["expect.body.matches[0]: `ä(b` is no regular expression, at character 2: unclosed group"],
    );
    check(
        &json!({"expect": {"body": {"absent": ["a(?=b)"]}}}),
        &["expect.body.absent[0]: `a(?=b)` is no regular expression, at character 2: look-around is not supported, \
           because patterns run in linear time; ask for what must be there with `matches` and for what must not \
           with `absent`"],
    );
    check(
        &json!({"expect": {"body": {"matches": ["\\w{1000}{1000}"]}}}),
        &["expect.body.matches[0]: `\\w{1000}{1000}` is too large a pattern: compiled it takes more than 10MiB"],
    );
    check(
        &json!({"expect": {"body": {"json": [{"path": "a"}, {"equals": 1}, {"path": "$.a"}, {"path": "$.a["}]}}}),
        &[
            "expect.body.json[0].path: `a`, expected a JSONPath, which begins with `$`",
            "expect.body.json[1].path: is missing, expected a JSONPath such as $.status",
            "expect.body.json[2]: asks nothing, expected one of: equals, not_equals, matches, less, greater, exists",
            "expect.body.json[3].path: `$.a[` is no JSONPath (RFC 9535), understood up to character 3",
        ],
    );
    check(&json!({"expect": {"body": {"size": {"min": 2, "max": 1}}}}), &["expect.body.size: has `min` above `max`"]);
    check(
        &json!({"expect": {"certificate": {"degraded": "1d", "down": "2d"}}}),
        &[
            "expect.certificate.degraded: is below `down`, expected the same or longer",
            "expect.certificate: is expected of a site at http://, which has no certificate of its own",
        ],
    );
}

#[test]
fn urls() {
    for url in ["http://a/", "https://[::1]:8443/x?y#z", "HTTPS://Bücher.example", "http:\\\\a\\b", "http:a"] {
        assert_eq!(validate_url(url), Ok(()), "{url}");
    }
    for (url, message) in [
        ("shop", "`shop` has no scheme, expected a URL such as https://shop.example/"),
        ("http://", "`http://` is no URL (empty host), expected a URL such as https://shop.example/"),
        ("ftp://a/", "`ftp://a/` has the scheme `ftp`, expected http or https"),
        ("ftp://u:p@a/", "holds user information, expected that in `request.auth`"),
        (
            "http://u:p@a:99999/@",
            "`http://(hidden)@a:99999/@` is no URL (invalid port number), expected a URL such as https://shop.example/",
        ),
        ("http://u:p@a/", "holds user information, expected that in `request.auth`"),
        (
            "http://a:99999/",
            "`http://a:99999/` is no URL (invalid port number), expected a URL such as https://shop.example/",
        ),
    ] {
        assert_eq!(validate_url(url), Err(message.to_owned()), "{url}");
    }
}

/// What is not built to be measured is small enough for sure.
#[test]
fn the_most_that_a_pattern_takes() {
    for text in [
        "",
        "a",
        "shop",
        r"^a|b$",
        r"(?i)add to basket",
        r"(?i)straße|ſ",
        r"\d+ items",
        r"\w+\s\W",
        r"[^a]{2,60}",
        r".{100}",
        r"(?s-u:.){100}[^x]",
        r"\p{Greek}(a(b(c)*)+)?\b",
        r"([\u{80}-\u{10ffff}][é-ω]){3,}",
        r"(\pL|\pN){4}",
        r"((a{3}){3}){3}",
    ] {
        let hir = regex_syntax::ParserBuilder::new().utf8(false).build().parse(text).expect(text);
        let compiler = regex_automata::nfa::thompson::Compiler::new();
        let built = compiler.clone().build_from_hir(&hir).expect(text).memory_usage();
        let most = PATTERN_BYTES_LEAST + bytes_most(&hir);
        assert!(built <= most, "{text}: {built} > {most}");
    }
}

#[test]
fn one_value_is_a_list_of_it() {
    use serde_json::json;

    let read = |options: &serde_json::Value| {
        let node = Node::from_json(options);
        let mut faults = Faults::default();
        let mut fields = At::new(&node, "").map(&mut faults);
        let read = parse(&mut fields, &common(), &mut faults);
        assert!(faults.0.is_empty(), "{faults:?}");
        let (request, expect) = read.expect("no faults");
        serde_json::Value::Object(show(&request, &expect))
    };
    let one = json!({"request": {"resolver": "192.0.2.1"}, "expect": {"status": 503, "http_version": 2,
        "body": {"matches": "a", "matches_any": "b", "absent": "c"}}});
    let list = json!({"request": {"resolver": ["192.0.2.1"]}, "expect": {"status": [503], "http_version": [2],
        "body": {"matches": ["a"], "matches_any": ["b"], "absent": ["c"]}}});
    assert_eq!(read(&one), read(&list));
    assert_eq!(read(&one)["expect"]["status"], json!([503]));
}
