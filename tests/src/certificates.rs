//! An authority, and a certificate by it.

use crate::{Home, needs};

const MAKE: &str = r#"set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=authority 2>&1
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost 2>&1
printf "subjectAltName=$1\nbasicConstraints=CA:FALSE\n" > extensions
openssl x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out cert.pem 2>&1"#;

/// `ca.pem`, `cert.pem` and `key.pem`, in the home: of `localhost` and 127.0.0.1.
#[track_caller]
pub fn make_certificates(home: &Home) {
    make_certificates_of(home, "DNS:localhost,IP:127.0.0.1");
}

/// The same, of these names as `subjectAltName` has them.
#[track_caller]
pub fn make_certificates_of(home: &Home, names: &str) {
    needs("openssl", "openssl");
    let made = home.clean("sh").args(["-c", MAKE, "sh", names]).output().expect("a shell can be started");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
}
