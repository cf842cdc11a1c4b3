use proptest::prelude::*;

use super::*;

fn network(text: &str) -> Network {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn r3_2_names_are_judged_by_rules_and_deny_wins() {
    let rules = network("allow:example.org,*.example.net:8443,*.allowed.example;deny:secret.allowed.example,*.bad.allowed.example:443");
    for (host, port, expect) in [
        ("example.org", 443, Ok(())),
        ("EXAMPLE.org.", 80, Ok(())),
        ("example.org", 22, Err("not_allowed")),
        ("a.example.org", 443, Err("not_allowed")),
        ("evilexample.org", 443, Err("not_allowed")),
        ("example.org.evil.com", 443, Err("not_allowed")),
        ("a.example.net", 8443, Ok(())),
        ("a.example.net", 443, Err("not_allowed")),
        ("example.net", 8443, Err("not_allowed")),
        ("x.allowed.example", 443, Ok(())),
        ("secret.allowed.example", 443, Err("denied")),
        ("secret.allowed.example", 80, Err("denied")),
        ("x.bad.allowed.example", 443, Err("denied")),
        ("x.bad.allowed.example", 80, Ok(())),
    ] {
        assert_eq!(rules.name(&name(host), port).map_err(|refused| refused.code()), expect, "{host}:{port}");
    }
    let looked_up = |host| rules.looks_up(&name(host)).map_err(|refused| refused.code());
    assert_eq!((looked_up("example.org"), looked_up("a.example.net"), looked_up("x.bad.allowed.example")), (Ok(()), Ok(()), Ok(())));
    assert_eq!((looked_up("secret.allowed.example"), looked_up("example.com")), (Err("denied"), Err("not_allowed")));
    assert_eq!(Network::Public.name(&name("a.b"), 443), Ok(()));
    assert_eq!(Network::Public.name(&name("a.b"), 22), Err(Refused::Port));
    assert_eq!(Network::None.name(&name("a.b"), 443), Err(Refused::NoNetwork));
}

#[test]
fn r3_3_an_empty_list_denies() {
    let empty = Network::rules::<&str>(&[], &[]).unwrap();
    assert_eq!(empty, network("allow:"));
    assert_eq!(empty.name(&name("example.org"), 443), Err(Refused::NotAllowed));
    assert_eq!(empty.address(ip("8.8.8.8"), 443, &[]), Err(Refused::NotAllowed));
    assert_eq!(empty.looks_up(&name("example.org")), Err(Refused::NotAllowed));
    assert_eq!(network("deny:a").name(&name("b"), 443), Err(Refused::NotAllowed));
}

#[test]
fn r3_2_addresses_that_are_not_public_are_never_reached_by_a_name_or_by_public() {
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::a00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::8.8.8.8",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2002:808:808::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "4000::1",
    ] {
        let refused = Network::Public.address(ip(text), 443, &[]).expect_err(text);
        assert_eq!(refused.code(), "special_address", "{text}");
        assert_eq!(
            network("allow:*,0.0.0.0/0,::/0").address(ip(text), 443, &[]).map_err(|refused| refused.code()),
            Err("special_address"),
            "{text}"
        );
        assert_eq!(
            network("allow:a.example").found(ip(text), 443, &[]).map_err(|refused| refused.code()),
            Err("special_address"),
            "{text}"
        );
    }
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.1.1",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2001:200::1",
        "2606:4700::1111",
        "2a00::1",
    ] {
        assert_eq!(special(ip(text)), None, "{text}");
        assert_eq!(Network::Public.address(ip(text), 443, &[]), Ok(()), "{text}");
    }
}

#[test]
fn what_the_operator_opens_is_like_a_public_address() {
    let opened = ["10.1.0.0/16".parse().unwrap()];
    assert_eq!(Network::Public.address(ip("10.1.2.3"), 443, &opened), Ok(()));
    assert_eq!(Network::Public.address(ip("::ffff:10.1.2.3"), 443, &opened), Ok(()));
    assert_eq!(Network::Public.address(ip("10.2.2.3"), 443, &opened).map_err(|refused| refused.code()), Err("special_address"));
    assert_eq!(network("allow:10.1.0.0/24:5432").address(ip("10.1.0.9"), 5432, &opened), Ok(()));
    assert_eq!(network("allow:10.1.0.0/24:5432").address(ip("10.1.1.9"), 5432, &opened), Err(Refused::NotAllowed));
    assert_eq!(network("allow:*;deny:10.1.0.9").found(ip("10.1.0.9"), 443, &opened).map_err(|refused| refused.code()), Err("denied"));
    assert!(network("allow:10.1.0.0/24").check(&opened).is_ok());
    for (text, fine) in [
        ("10.2.0.0/16", false),
        ("169.254.169.254", false),
        ("::1", false),
        ("0.0.0.0/0", true),
        ("8.8.8.0/24", true),
        ("10.0.0.0/8", true),
    ] {
        assert_eq!(network(&format!("allow:{text}")).check(&opened).is_ok(), fine, "{text}");
    }
}

#[test]
fn a_pattern_names_no_address() {
    assert_eq!(network("allow:*").address(ip("8.8.8.8"), 443, &[]), Err(Refused::NotAllowed));
    assert_eq!(network("allow:8.8.8.8").address(ip("8.8.8.8"), 443, &[]), Ok(()));
    assert_eq!(network("allow:8.8.8.8").address(ip("8.8.4.4"), 443, &[]), Err(Refused::NotAllowed));
}

#[test]
fn r3_2_hosts_have_one_form() {
    for (text, expect) in [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dns.x", "_dns.x"),
        ("1.2.3.4", "1.2.3.4"),
        ("[2606::1]", "[2606::1]"),
        ("[::ffff:1.2.3.4]", "1.2.3.4"),
    ] {
        assert_eq!(text.parse::<Asked>().unwrap().to_string(), expect);
    }
    for (text, expect) in [
        ("", BadHost::Empty),
        (".", BadHost::Empty),
        ("a..b", BadHost::Character),
        ("a.b..", BadHost::Character),
        ("bücher.example", BadHost::Character),
        ("a b", BadHost::Character),
        ("a\0.example", BadHost::Character),
        ("user@example.org", BadHost::Character),
        ("a%2eb", BadHost::Character),
        ("2130706433", BadHost::Address),
        ("0x7f000001", BadHost::Address),
        ("0x7f.1", BadHost::Address),
        ("0177.0.0.1", BadHost::Address),
        ("127.1", BadHost::Address),
        ("127.0.0.1.", BadHost::Address),
        ("1.2.3.4.5", BadHost::Address),
        ("a.0x", BadHost::Address),
        ("256.1.1.1", BadHost::Address),
        ("[::1", BadHost::Address),
        ("[fe80::1%1]", BadHost::Address),
        ("[1.2.3.4]", BadHost::Address),
        ("::1", BadHost::Character),
    ] {
        assert_eq!(text.parse::<Asked>(), Err(expect), "{text:?}");
    }
    assert_eq!("a.".repeat(130).parse::<Asked>(), Err(BadHost::TooLong));
}

#[test]
fn networks_are_written_as_they_are_read() {
    for text in ["none", "public", "allow:", "allow:a,b:443", "allow:a;deny:b", "allow:[2606::1]:443"] {
        assert_eq!(network(text).to_string(), text);
    }
    for bad in ["", "all", "allow", "public;deny:a", "allow:a;allow:b", "allow:a b", "deny:a;x"] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
    let many = vec!["a"; MOST_RULES + 1];
    assert!(Network::rules(&many, &[]).is_err());
}

proptest! {
    #[test]
    fn r3_2_an_address_of_ipv4_is_the_same_in_every_form(bits: u32) {
        let v4 = std::net::Ipv4Addr::from_bits(bits);
        let mapped = IpAddr::V6(v4.to_ipv6_mapped());
        prop_assert_eq!(special(v4.into()), special(mapped));
        let nat64 = IpAddr::V6(std::net::Ipv6Addr::from_bits((0x0064_FF9B << 96) | u128::from(bits)));
        prop_assert!(special(nat64).is_some());
        // Whatever can be dialled is judged the same by whichever way it is asked for.
        let public = Network::Public;
        prop_assert_eq!(public.address(v4.into(), 443, &[]), public.address(mapped, 443, &[]));
    }

    #[test]
    fn a_range_has_what_it_says(bits: u32, length in 0u8..=32, other: u32) {
        let first = bits & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let range: AddressRange = format!("{}/{length}", std::net::Ipv4Addr::from_bits(first)).parse().unwrap();
        let expect = length == 0 || (first ^ other) >> (32 - length) == 0;
        prop_assert_eq!(range.contains(std::net::Ipv4Addr::from_bits(other).into()), expect);
        if range.special().is_some() && expect {
            prop_assert!(special(std::net::Ipv4Addr::from_bits(other).into()).is_some());
        }
    }

    #[test]
    fn no_text_is_both_a_name_and_an_address(text in "[0-9a-fx.:\\[\\]]{1,20}") {
        if let Ok(Asked::Name(name)) = text.parse() {
            prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            prop_assert!(!host::is_number(name.as_str().rsplit('.').next().unwrap()));
        }
    }
}

/// Host, methods, path and secret.
type Written<'a> = (&'a str, &'a [&'a str], Option<&'a str>, Option<&'a str>);

fn requests(rules: &[Written<'_>]) -> Network {
    let rules: Vec<RequestRule> = rules
        .iter()
        .map(|(host, methods, path, secret)| {
            let methods: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
            RequestRule::read(host, &methods, path.map(str::to_owned), secret.map(str::to_owned)).unwrap()
        })
        .collect();
    let secrets = rules.iter().filter_map(|rule| rule.secret.clone());
    let secrets = secrets.map(|name| (name.clone(), Secret::given(&name, "Authorization", "Bearer 1234".to_owned()).unwrap())).collect();
    network("allow:*.plain.example,api.example").with(|changed| (changed.requests, changed.secrets) = (rules, secrets)).unwrap()
}

#[test]
fn r3_2_requests_are_judged_by_the_first_rule_that_fits() {
    let network = requests(&[
        ("api.example", &["get"], Some("/repos/"), Some("gh")),
        ("api.example", &["POST", "GET"], Some("/open"), None),
        ("*.wild.example:8443", &["*"], None, None),
    ]);
    let asked = |host: &str, port, method: &str, path: &str| {
        network.request(&name(host), port, method, path).map(|secret| secret.map(str::to_owned)).map_err(|refused| refused.code())
    };
    for (method, path, expect) in [
        ("GET", "/repos/a/b", Ok(Some("gh".to_owned()))),
        ("GET", "/repos/", Ok(Some("gh".to_owned()))),
        ("GET", "/repos", Err("request")),
        ("GET", "/Repos/a", Err("request")),
        ("get", "/repos/a", Err("request")),
        ("POST", "/repos/a", Err("request")),
        ("POST", "/open", Ok(None)),
        ("GET", "/open/x", Ok(None)),
        ("GET", "/opened", Err("request")),
        ("GET", "/", Err("request")),
        ("GET", "/repos/../admin", Err("path")),
        ("GET", "/repos/%2E%2e/admin", Err("path")),
        ("GET", "/repos/..;x/admin", Err("path")),
        ("GET", "/repos/.%2e", Err("path")),
        ("GET", "/repos/..%2fadmin", Err("path")),
        ("GET", "/repos/..\\admin", Err("path")),
        ("GET", "/repos/%252e%252e/admin", Err("path")),
        ("GET", "/repos/a%00", Err("path")),
        ("GET", "/repos/...", Ok(Some("gh".to_owned()))),
    ] {
        assert_eq!(asked("API.example", 443, method, path), expect, "{method} {path}");
    }
    assert_eq!(asked("x.plain.example", 443, "DELETE", "/a/../b"), Ok(None), "what no rule lists is not looked at");
    assert!(network.inspects(&name("api.example"), 443) && !network.inspects(&name("api.example"), 8443));
    assert!(!network.inspects(&name("x.wild.example"), 8443), "every request of it is fine");
    assert_eq!(network.name(&name("x.wild.example"), 8443), Ok(()), "who is listed may be reached");
    assert_eq!(network.name(&name("x.wild.example"), 443), Err(Refused::NotAllowed));
    assert_eq!(network.looks_up(&name("x.wild.example")), Ok(()));
    let all = network.clone().with(|rules| rules.intercept = Intercept::All).unwrap();
    assert!(all.inspects(&name("x.plain.example"), 443) && all.inspects_all() && network.inspects_some());
    assert_eq!(network.secrets_of(&name("api.example"), 443).map(|(name, _)| name).collect::<Vec<_>>(), ["gh"]);
}

#[test]
fn rules_about_requests_hold_together() {
    let read = |host: &str, method: &str, path: &str| RequestRule::read(host, &[method.to_owned()], Some(path.to_owned()), None);
    for (host, method, path) in [
        ("10.0.0.1", "GET", "/"),
        ("", "GET", "/"),
        ("a.b", "", "/"),
        ("a.b", "G T", "/"),
        ("a.b", "GET", "x"),
        ("a.b", "GET", "/a?b"),
        ("a.b", "GET", "/a/../b"),
        ("a.b", "GET", "/a b"),
    ] {
        assert!(read(host, method, path).is_err(), "{host} {method} {path}");
    }
    let long = "x".repeat(9000);
    for (header, value) in
        [("Host", "x"), ("a b", "x"), ("", "x"), ("transfer-encoding", "x"), ("A", ""), ("A", "x\r\ny"), ("A", " x"), ("A", long.as_str())]
    {
        let error = Secret::given("n", header, value.to_owned()).unwrap_err().to_string();
        assert!(value.len() < 3 || !error.contains(value), "{error}");
    }
    let secret = Secret::given("n", "A", "hidden-value".to_owned()).unwrap();
    assert!(!format!("{secret:?}").contains("hidden"));
    let with = |change: &dyn Fn(&mut Rules)| network("allow:a.b").with(change).map_err(|error| error.to_string());
    let rule = RequestRule::read("a.b", &[], None, Some("n".to_owned())).unwrap();
    assert!(with(&|rules| rules.requests = vec![rule.clone()]).unwrap_err().contains("not in `secrets`"));
    assert!(with(&|rules| drop(rules.secrets.insert("n".to_owned(), secret.clone()))).unwrap_err().contains("no rule has secret"));
    assert!(with(&|rules| rules.limits.bytes_per_second = Some(5)).is_err() && with(&|rules| rules.limits.max_bytes = Some(0)).is_err());
    assert!(with(&|rules| rules.requests = vec![read("a.b", "GET", "/").unwrap(); 257]).is_err());
}

#[test]
fn packages_come_from_their_registries_alone() {
    let packages = network("packages");
    assert_eq!(packages.to_string(), "packages");
    for host in ["pypi.org", "files.pythonhosted.org", "registry.npmjs.org", "index.crates.io", "proxy.golang.org", "deb.debian.org"] {
        assert_eq!((packages.name(&name(host), 443), packages.looks_up(&name(host))), (Ok(()), Ok(())), "{host}");
    }
    assert_eq!(packages.name(&name("example.org"), 443), Err(Refused::NotAllowed));
    assert_eq!(packages.name(&name("pypi.org"), 22), Err(Refused::NotAllowed));
    assert_eq!(packages.address(ip("8.8.8.8"), 443, &[]), Err(Refused::NotAllowed));
}
