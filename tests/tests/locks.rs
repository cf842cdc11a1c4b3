//! Locks that several servers share: what a server says of its Redis when it starts.

use std::{fs, time::Duration};

use caisson_tests::{
    Home, Setup, eventually, make_certificates,
    redis::{PASSWORD_IN_URLS, Redis},
};

/// Ends as an error, which says these words and shows no password.
#[track_caller]
fn refused(home: &Home, environment: &[(&str, &str)], words: &[&str]) {
    let mut command = home.command(["serve"]);
    command.env("CAISSON_LISTEN", "127.0.0.1:0").env("CAISSON_API_KEY", "k").envs(environment.iter().copied());
    let mut child = home.start(&mut command);
    let ended = eventually("its end", Duration::from_secs(20), || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!ended.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    for secret in ["pass%3A", "pass:", "sesame"] {
        assert!(!said.contains(secret), "a password is shown: {said}");
    }
}

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
        refused(&home, &[("CAISSON_REDIS_URL", value)], &words);
    }
    refused(&home, &[("CAISSON_REDIS_URL", &url), ("DAIV_SANDBOX_REDIS_URL", &wrong)], &["DAIV_SANDBOX_REDIS_URL", "disagree"]);
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
    refused(&place, &[("CAISSON_REDIS_URL", &url)], &["cannot be spoken to over TLS", "trusted here"]);
    let other_name = redis.tls_url("127.0.0.2");
    let trusted = authority.to_str().unwrap();
    refused(
        &place,
        &[("CAISSON_REDIS_URL", &other_name), ("SSL_CERT_FILE", trusted)],
        &["rediss://127.0.0.2:", "cannot be spoken to over TLS"],
    );
    let plain = format!("rediss://:{PASSWORD_IN_URLS}@127.0.0.1:{}", redis.port());
    refused(&place, &[("CAISSON_REDIS_URL", &plain)], &["over TLS"]);
    fs::remove_dir_all(place.data()).unwrap();
    place.finish();
}
