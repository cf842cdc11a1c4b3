//! Locks that several servers share: what a server says of its Redis when it starts.

use std::fs;

use caisson_tests::{
    Home, Setup, make_certificates,
    redis::{PASSWORD_IN_URLS, Redis},
};

#[test]
fn what_cannot_be_asked_for_locks_is_refused_with_the_remedy() {
    let redis = Redis::start();
    let (url, port) = (redis.url(), redis.port());
    let wrong = url.replacen("pass%3A", "sesame", 1);
    let home = Home::new();
    for (value, words) in [
        (wrong.as_str(), ["does not let us in", "correct user and password in CAISSON_REDIS_URL"]),
        (&format!("redis://limited:{PASSWORD_IN_URLS}@127.0.0.1:{port}"), ["limited@127.0.0.1", "EVAL"]),
        ("redis://u:sesame@127.0.0.1:1", ["redis://u@127.0.0.1:1/0 cannot be reached", "start it"]),
        ("redis://u:sesame@h?db=1", ["CAISSON_REDIS_URL has an option", "%XX"]),
        ("http://u:sesame@h", ["CAISSON_REDIS_URL", "expected redis://"]),
    ] {
        home.refuses_to_serve(&[("CAISSON_REDIS_URL", value)], &words);
    }
    home.refuses_to_serve(&[("CAISSON_REDIS_URL", &url), ("DAIV_SANDBOX_REDIS_URL", &wrong)], &["DAIV_SANDBOX_REDIS_URL", "disagree"]);
    fs::remove_dir_all(home.data()).unwrap();
    home.finish();
    let server = Setup::default().env("DAIV_SANDBOX_REDIS_URL", &url).start();
    let log = server.log();
    assert!(log.contains("DAIV_SANDBOX_REDIS_URL of the environment is used"), "{log}");
    assert!(log.contains(&format!("Locks are in redis://127.0.0.1:{port}/0")) && !log.contains("pass"), "{log}");
    assert_eq!(redis.ask(&["KEYS", "*"]), "daiv-sandbox:session-lock:#fence", "it has tried and left no lock");
    server.finish();
}

/// With certificates that the machine trusts, and of the host that was named.
#[test]
fn redis_may_speak_tls() {
    let place = Home::new();
    make_certificates(&place);
    let redis = Redis::with_tls(place.path());
    let url = redis.tls_url("localhost");
    let authority = place.path().join("ca.pem");
    let trusting = Setup::default().env("CAISSON_REDIS_URL", &url).env("SSL_CERT_FILE", &authority).start();
    assert!(trusting.log().contains("Locks are in rediss://localhost:"), "{}", trusting.log());
    trusting.finish();
    place.refuses_to_serve(&[("CAISSON_REDIS_URL", &url)], &["cannot be spoken to over TLS", "trusted here"]);
    let other_name = redis.tls_url("127.0.0.2");
    let trusted = authority.to_str().unwrap();
    place.refuses_to_serve(
        &[("CAISSON_REDIS_URL", &other_name), ("SSL_CERT_FILE", trusted)],
        &["rediss://127.0.0.2:", "cannot be spoken to over TLS"],
    );
    let plain = format!("rediss://:{PASSWORD_IN_URLS}@127.0.0.1:{}", redis.port());
    place.refuses_to_serve(&[("CAISSON_REDIS_URL", &plain)], &["over TLS"]);
    fs::remove_dir_all(place.data()).unwrap();
    place.finish();
}
