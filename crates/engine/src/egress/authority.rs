//! Who vouches for hosts towards sandboxes where their TLS is looked into: an authority of this server's own, or the operator's. Its key leaves neither
//! this process nor its file.

use std::{
    collections::{HashMap, VecDeque},
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use caisson_core::{Error, HostName, Result};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, date_time_ymd,
};
use rustls::{
    ClientConfig, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::time::Instant;

/// The names of its files in the data directory.
const CERTIFICATE: &str = "egress-ca.pem";
const KEY: &str = "egress-ca.key";
/// For how long it vouches, and for how long a certificate of a host is used.
const YEARS: i64 = 10;
const DAYS: i64 = 30;
const USED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Clocks differ.
const DAYS_BEFORE: i64 = 2;
/// Hosts whose certificates are kept.
const HOSTS: usize = 1024;
/// Larger files are no certificates.
const LONGEST: u64 = 1 << 20;

/// See the module.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Arc<str>,
    /// Every host has the same, which is made at each start.
    hosts_key: KeyPair,
    hosts: Mutex<Hosts>,
    /// How the other side is asked who it is.
    pub(super) outward: Arc<ClientConfig>,
}

#[derive(Default)]
struct Hosts {
    known: HashMap<HostName, (Instant, Arc<ServerConfig>)>,
    /// In the order in which they came.
    order: VecDeque<HostName>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Files that are no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAuthority {
    #[error("{} cannot be read or made", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("{} is there without {}; put it back, or remove the first, and a new authority is made", .0.display(), .1.display())]
    Half(PathBuf, PathBuf),
    #[error("others can read {path}; run `chmod 600` on it", path = .0.display())]
    Open(PathBuf),
    #[error("{} has no certificate in PEM", .0.display())]
    Certificate(PathBuf),
    #[error("the certificate in {} is none of an authority (`CA:TRUE` in its basic constraints)", .0.display())]
    NotAuthority(PathBuf),
    #[error("the certificate in {} is not valid now", .0.display())]
    Expired(PathBuf),
    #[error("{} has no private key in PEM (PKCS#8) that can sign", .0.display())]
    Key(PathBuf),
    #[error("the key in {key} is not that of the certificate in {certificate}", certificate = .0.display(), key = .1.display())]
    Other(PathBuf, PathBuf),
    #[error("it cannot be made: {0}")]
    Made(String),
}

impl Authority {
    /// The operator's, or that of the data directory, which is made where there is none.
    pub(crate) async fn open(data_dir: &Path, given: Option<&(PathBuf, PathBuf)>) -> Result<Self> {
        let (files, is_own) = match given {
            Some(files) => (files.clone(), false),
            None => ((data_dir.join(CERTIFICATE), data_dir.join(KEY)), true),
        };
        let failed = |error: BadAuthority| Error::internal("the authority that hosts are vouched for by cannot be used", error);
        let opened = tokio::task::spawn_blocking(move || find_or_make(&files.0, &files.1, is_own)).await;
        let (pem, issuer) = opened.unwrap_or_else(|error| Err(BadAuthority::Made(error.to_string()))).map_err(failed)?;
        let hosts_key = KeyPair::generate().map_err(|error| failed(BadAuthority::Made(error.to_string())))?;
        let mut outward = caisson_outgoing::tls("sandboxes reach no host whose TLS is looked into").await;
        outward.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { issuer, pem: pem.into(), hosts_key, hosts: Mutex::default(), outward: Arc::new(outward) })
    }

    /// Its certificate, for those who are to trust it.
    pub(crate) fn pem(&self) -> Arc<str> {
        Arc::clone(&self.pem)
    }

    /// How a host is posed as.
    pub(super) fn pose(&self, host: &HostName) -> std::result::Result<Arc<ServerConfig>, String> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, config)) = hosts.known.get(host)
            && since.elapsed() < USED_FOR
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.server(host).map_err(|error| error.to_string())?);
        if hosts.known.insert(host.clone(), (Instant::now(), Arc::clone(&config))).is_none() {
            hosts.order.push_back(host.clone());
        }
        if hosts.order.len() > HOSTS
            && let Some(oldest) = hosts.order.pop_front()
        {
            hosts.known.remove(&oldest);
        }
        Ok(config)
    }

    fn server(&self, host: &HostName) -> std::result::Result<ServerConfig, rcgen::Error> {
        let mut params = CertificateParams::new([host.as_str().to_owned()])?;
        // What is in it would not fit for long names. Who it is stands in the names.
        params.distinguished_name = named("caisson");
        valid(&mut params, -DAYS_BEFORE, DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.hosts_key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.hosts_key.serialize_der()));
        let key = ring::sign::any_ecdsa_type(&key).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        let certified: Arc<dyn ResolvesServerCert> =
            Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate.der().clone()], key)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has what TLS 1.2 and 1.3 need")
            .with_no_client_auth()
            .with_cert_resolver(certified);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions that are taken up again would be kept for every host.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From so many days from now to so many, from their beginnings.
fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |from_now: i64| {
        let date = today.saturating_add(from_now.days());
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(from), day(to));
}

type Found = (String, Issuer<'static, KeyPair>);

fn find_or_make(certificate: &Path, key: &Path, is_own: bool) -> std::result::Result<Found, BadAuthority> {
    match (certificate.exists(), key.exists()) {
        (false, false) if is_own => make(certificate, key),
        (true, false) if is_own => Err(BadAuthority::Half(certificate.to_owned(), key.to_owned())),
        (false, true) if is_own => Err(BadAuthority::Half(key.to_owned(), certificate.to_owned())),
        _ => read(certificate, key),
    }
}

fn read(certificate_path: &Path, key_path: &Path) -> std::result::Result<Found, BadAuthority> {
    let text = |path: &Path, secret: bool| {
        let file = |error| BadAuthority::File(path.to_owned(), error);
        let found = fs::metadata(path).map_err(file)?;
        if secret && found.mode() & 0o077 != 0 {
            return Err(BadAuthority::Open(path.to_owned()));
        }
        if !found.is_file() || found.len() > LONGEST {
            return Err(file(io::Error::other("it is no file of at most 1 MiB")));
        }
        fs::read_to_string(path).map_err(file)
    };
    let pem = text(certificate_path, false)?;
    let key = KeyPair::from_pem(&text(key_path, true)?).map_err(|_| BadAuthority::Key(key_path.to_owned()))?;
    let bad = || BadAuthority::Certificate(certificate_path.to_owned());
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad())?;
    let (rest, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| bad())?;
    if !rest.is_empty() {
        return Err(bad());
    }
    if !parsed.is_ca() {
        return Err(BadAuthority::NotAuthority(certificate_path.to_owned()));
    }
    if !parsed.validity().is_valid() {
        return Err(BadAuthority::Expired(certificate_path.to_owned()));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(BadAuthority::Other(certificate_path.to_owned(), key_path.to_owned()));
    }
    // Only the certificate itself: what else is in the file is nobody's to trust.
    let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| bad())?;
    Ok((armoured(&der), issuer))
}

fn armoured(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn make(certificate_path: &Path, key_path: &Path) -> std::result::Result<Found, BadAuthority> {
    let made = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Caisson egress");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, -DAYS_BEFORE, YEARS * 365);
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let (pem, key) = made().map_err(|error: rcgen::Error| BadAuthority::Made(error.to_string()))?;
    // The key first: with a certificate alone nothing could be done, and nobody has trusted it yet.
    for (path, text) in [(key_path, &key), (certificate_path, &pem)] {
        write(path, text).map_err(|error| BadAuthority::File(path.to_owned(), error))?;
    }
    read(certificate_path, key_path)
}

/// Under another name until it is whole.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::{ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    async fn opened(dir: &Path) -> Authority {
        Authority::open(dir, None).await.unwrap()
    }

    #[tokio::test]
    async fn an_authority_is_made_once_and_its_key_is_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let made = opened(dir.path()).await;
        assert_eq!(opened(dir.path()).await.pem(), made.pem());
        let key = dir.path().join(KEY);
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        let host: HostName = "a.example".parse().unwrap();
        assert!(Arc::ptr_eq(&made.pose(&host).unwrap(), &made.pose(&host).unwrap()));
        for n in 0..HOSTS {
            made.pose(&format!("h{n}.example").parse().unwrap()).unwrap();
        }
        assert_eq!(made.hosts.lock().unwrap().known.len(), HOSTS);
        // Whoever trusts it believes that this is the host, and nobody else.
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        for (asked, fine) in [("a.example", true), ("b.example", false)] {
            let mut client = ClientConnection::new(Arc::clone(&config), asked.try_into().unwrap()).unwrap();
            let mut server = ServerConnection::new(made.pose(&host).unwrap()).unwrap();
            let mut outcome = Ok(());
            for _ in 0..10 {
                let mut bytes = Vec::new();
                client.write_tls(&mut bytes).unwrap();
                server.read_tls(&mut &bytes[..]).unwrap();
                server.process_new_packets().ok();
                let mut bytes = Vec::new();
                server.write_tls(&mut bytes).unwrap();
                client.read_tls(&mut &bytes[..]).unwrap();
                outcome = outcome.and(client.process_new_packets().map(drop));
            }
            assert_eq!(outcome.is_ok() && !client.is_handshaking(), fine, "{asked}: {outcome:?}");
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(find_or_make(&dir.path().join(CERTIFICATE), &key, true), Err(BadAuthority::Open(_))));
        fs::remove_file(&key).unwrap();
        assert!(matches!(find_or_make(&dir.path().join(CERTIFICATE), &key, true), Err(BadAuthority::Half(..))));
    }

    #[test]
    fn files_that_are_no_authority_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let signed = |name: &str, change: &dyn Fn(&mut CertificateParams)| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            change(&mut params);
            write(&at(&format!("{name}.pem")), &params.self_signed(&key).unwrap().pem()).unwrap();
            write(&at(&format!("{name}.key")), &key.serialize_pem()).unwrap();
        };
        signed("fine", &|_| {});
        signed("leaf", &|params| params.is_ca = IsCa::NoCa);
        signed("old", &|params| valid(params, -9, -3));
        write(&at("text.pem"), "no certificate").unwrap();
        write(&at("text.key"), "no key").unwrap();
        let found = |certificate: &str, key: &str| find_or_make(&at(certificate), &at(key), false).map(drop);
        assert!(found("fine.pem", "fine.key").is_ok());
        assert!(matches!(found("fine.pem", "leaf.key"), Err(BadAuthority::Other(..))));
        assert!(matches!(found("leaf.pem", "leaf.key"), Err(BadAuthority::NotAuthority(_))));
        assert!(matches!(found("old.pem", "old.key"), Err(BadAuthority::Expired(_))));
        assert!(matches!(found("text.pem", "fine.key"), Err(BadAuthority::Certificate(_))));
        assert!(matches!(found("fine.pem", "text.key"), Err(BadAuthority::Key(_))));
        assert!(matches!(found("none.pem", "fine.key"), Err(BadAuthority::File(..))));
    }
}
