//! What is counted on a page, in any parts, and that another tokenizer sees the same tags.

use super::*;
use proptest::prelude::*;
use sitemon_model::tree::Node;
use std::cell::RefCell;
use std::collections::BTreeMap;

fn plugin(options: &serde_json::Value) -> Result<Arc<dyn Plugin>, Vec<String>> {
    let node = Node::from_json(options);
    let mut faults = Faults::default();
    let plugin = parse(&At::new(&node, "html-stats"), &mut faults);
    let told = faults.0.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    plugin.ok_or(told)
}

fn report(page: &str, part: usize) -> BTreeMap<String, u64> {
    let plugin = plugin(&serde_json::json!({})).unwrap();
    let about = Page { url: "https://www.shop.example:8443/a?b", content_type: Some("text/html; charset=utf-8") };
    let mut pass = plugin.begin(&about).unwrap();
    let mut rest = page;
    while !rest.is_empty() {
        let (first, after) = rest.split_at(rest.ceil_char_boundary(part.min(rest.len())));
        pass.feed(first);
        rest = after;
    }
    let report = pass.finish(page.len() as u64);
    assert!(report.values.is_sorted_by(|a, b| a.0 < b.0));
    report.values.into_iter().map(|(metric, value)| (metric.to_string(), value as u64)).collect()
}

/// What is not 0, but for hash and bytes.
fn check(page: &str, expected: &[(&str, u32)]) {
    for part in 1..=page.len().max(1) {
        let counted: Vec<(String, u64)> = report(page, part)
            .into_iter()
            .filter(|(metric, value)| *value != 0 && metric != "title_hash" && metric != "bytes")
            .collect();
        let expected: Vec<(String, u64)> =
            expected.iter().map(|(metric, value)| ((*metric).to_owned(), u64::from(*value))).collect();
        assert_eq!(counted, expected, "{page:?} in parts of {part}");
    }
}

#[test]
fn a_page() {
    check(
        "<!DOCTYPE html><html><head><TITLE>Größe</TITLE><script src=/a.js></script>\
         <script src='//cdn.example/x.js'></script><script>if (a < b) document.write('<p>')</script></head>\
         <body><h1>Two words</h1><a href=x>one</a> <a name=y>two</a><a href='https://static.shop.example'>3</a>\
         <a href=\"http://other.example/\">4</a><a href=mailto:me@x>5</a><img src=a.png><form></form></body></html>",
        &[
            ("forms", 1),
            ("images", 1),
            ("links", 4),
            ("links_own", 2),
            ("links_third_party", 1),
            ("scripts", 3),
            ("scripts_inline", 1),
            ("scripts_own", 1),
            ("scripts_third_party", 1),
            ("tag.a", 5),
            ("tag.body", 1),
            ("tag.form", 1),
            ("tag.h1", 1),
            ("tag.head", 1),
            ("tag.html", 1),
            ("tag.img", 1),
            ("tag.script", 3),
            ("tag.title", 1),
            ("tags", 15),
            ("title_bytes", 7),
            ("words", 7),
        ],
    );
}

#[test]
fn what_is_no_tag() {
    check("a < b <3 </> <!-- <p> --> <!-> <?php <p> ?> </ p><", &[("words", 5)]);
    check("<!--><p>--><!---><p><!-- --!><p><!-- -- ><p> --><!----!><p>", &[("tag.p", 4), ("tags", 4), ("words", 1)]);
    check("<p title='<b>' x=\"<i>\" y=<u><b/ >", &[("tag.b", 1), ("tag.p", 1), ("tags", 2)]);
    check(
        "<textarea><p></textarea ><style><p></styles></style><p",
        &[("tag.style", 1), ("tag.textarea", 1), ("tags", 2)],
    );
    check(
        "<svg><style><p></style><![CDATA[<b>]]]></svg><![CDATA[<b>]]>",
        &[("tag.p", 1), ("tag.style", 1), ("tag.svg", 1), ("tags", 3), ("words", 1)],
    );
    check("<plaintext></plaintext><p>", &[("tag.plaintext", 1), ("tags", 1), ("words", 1)]);
}

#[test]
fn scripts_end_where_the_standard_says() {
    let one = &[("scripts", 1), ("scripts_inline", 1), ("tag.p", 1), ("tag.script", 1), ("tags", 2)];
    check("<script></scripts></script><p>", one);
    check("<script><!-- </script><p>", one);
    check("<script><!-- <script> </script> --> </script><p>", one);
    check("<script><!-- <script> </script> </script><p>", one);
    check("<script><!--><script></script><p>", one);
    check("<script><!-- <script>--></script><p>", one);
    check("<script><!-- <scripts> </script><p>", one);
    check("<script><!- <script></script><p>", one);
}

#[test]
fn names_are_bounded() {
    check("<x-y></x-y><X-Y/><a-name-that-is-long><é>", &[("tag.x-y", 2), ("tags", 3), ("tags_other", 1), ("words", 1)]);
    let many: Vec<String> = (0..100).map(|n| format!("<x{n}>")).collect();
    let counted = report(&many.concat(), 1000);
    assert_eq!(counted.keys().filter(|metric| metric.starts_with("tag.")).count(), OTHER_NAMES_MAX);
    assert_eq!(counted["tags_other"], 68);
    assert_eq!(report("<aé>", 10)["tags_other"], 1);
}

#[test]
fn own_and_third_party() {
    let own = [
        "x",
        "",
        "/x",
        "?q",
        "#f",
        "//shop.example",
        "HTTPS://WWW.Shop.Example:1/",
        "https://a.b.shop.example?",
        "\\\\shop.example\\x",
        "http://u:p@shop.example/",
        " //shop.example ",
    ];
    let third =
        ["//myshop.example", "https://example", "//shop.example.evil", "http://shop.example@evil/", "https://[::1]:2/"];
    let neither = ["mailto:a@b", "javascript:void(0)", "data:,x", "tel:1"];
    for (addresses, own, third) in [(&own[..], 1, 0), (&third[..], 0, 1), (&neither[..], 0, 0)] {
        for address in addresses {
            let counted = report(&format!("<a href='{address}'>"), 1000);
            let found = (counted["links"], counted["links_own"], counted["links_third_party"]);
            assert_eq!(found, (1, own, third), "{address}");
        }
    }
    let elsewhere =
        report("<base href='https://cdn.example/'><base href='/'><a href=x><a href='//shop.example/'>", 1000);
    assert_eq!((elsewhere["links_own"], elsewhere["links_third_party"]), (1, 1));
}

#[test]
fn a_changed_title_is_another_number() {
    let hash = |page: &str| report(page, 3)["title_hash"];
    assert_eq!(hash("<title>a</title>"), hash("<p><title>a</title><title>b</title>"));
    assert_ne!(hash("<title>a</title>"), hash("<title>b</title>"));
    assert_eq!(hash("<title></title>"), 0);
    assert_eq!(hash("<p>"), 0);
}

#[test]
fn options() {
    let read = |options| plugin(&options).map(|plugin| plugin.baseline().unwrap());
    assert_eq!(read(serde_json::json!({})), Ok(DEFAULTS));
    assert_eq!(
        read(serde_json::json!({"window": "7d", "deviations": 2.5, "samples": 5})),
        Ok(Baseline { window: Duration::from_hours(7 * 24), deviations: 2.5, samples: 5 })
    );
    assert_eq!(
        read(serde_json::json!({"windw": "7d", "deviations": -1, "samples": 1, "window": "0s"})),
        Err(vec![
            "html-stats.window: `0s`, expected more than 0s".to_owned(),
            "html-stats.deviations: `-1`, expected a number above 0".to_owned(),
            "html-stats.samples: `1`, expected a whole number from 2".to_owned(),
            "html-stats.windw: unknown key `windw`, did you mean `window`?".to_owned(),
        ])
    );
    assert_eq!(schema()["properties"]["samples"]["default"], 20);
}

#[test]
fn only_pages_are_looked_at() {
    let plugin = plugin(&serde_json::json!({})).unwrap();
    let begins = |content_type| plugin.begin(&Page { url: "http://a/", content_type }).is_some();
    assert!(begins(None) && begins(Some("TEXT/HTML")) && begins(Some("application/xhtml+xml; charset=x")));
    assert!(!begins(Some("application/json")) && !begins(Some("text/plain")));
}

/// The start tags that another tokenizer sees.
fn oracle(page: &str) -> BTreeMap<String, u64> {
    let counted = RefCell::new(BTreeMap::new());
    let mut handler = |element: &mut lol_html::html_content::Element<'_, '_>| {
        *counted.borrow_mut().entry(format!("tag.{}", element.tag_name())).or_insert(0) += 1;
        Ok(())
    };
    let settings = lol_html::RewriteStrSettings::new()
        .with_strict(false)
        .append_element_content_handler(lol_html::element!("*", &mut handler));
    lol_html::rewrite_str(page, settings).unwrap();
    counted.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_tokenizer_sees_the_same_tags(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "<p>", "<b class=x>", "</b>", "<script>", "</script>", "<!--", "-->", "--!>", "<", ">", "/", "'", "\"", "=", " ",
            "<a href='", "<title>", "</title>", "<textarea>", "</textarea>", "text", "-", "!", "<style>", "</style>", "<!DOCTYPE html>",
            "<?x", "</", "é", "\n", "<x-y", "<iframe>", "</iframe>", "<img src=a>", "</script", "<script", "&amp;",
        ]), 0..30),
        part in 1..40usize,
    ) {
        let page: String = parts.concat();
        let counted: BTreeMap<String, u64> = report(&page, part)
            .into_iter()
            .filter(|(metric, _)| metric.starts_with("tag.") || metric == "tags_other")
            .collect();
        let mut expected = oracle(&page);
        let other: u64 = expected.iter().filter(|(metric, _)| !counted.contains_key(*metric)).map(|(_, count)| count).sum();
        expected.retain(|metric, _| counted.contains_key(metric));
        expected.insert("tags_other".to_owned(), other);
        prop_assert_eq!(counted, expected, "{}", page);
    }
}
