//! What steps are lent of this machine's settings where they have its network: proxies, mirrors of packages, and whom to trust.
//!
//! They are variables of the programs that are run, and files in memory that those name. Nothing of it comes into the image.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{cache::hex, scope::PROXIES};

/// Where the files are inside: no image has anything of its own there.
const PLACE: &str = "/dev/shm/caisson-lent";
/// The certificates of a whole machine come to a few hundred thousand bytes.
const MAX_FILE: u64 = 4 << 20;

/// Variables that are lent as they are.
const VARIABLES: [&str; 19] = [
    "GOINSECURE",
    "GONOPROXY",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOPROXY",
    "GOSUMDB",
    "NPM_CONFIG_REGISTRY",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_PROXY",
    "PIP_RETRIES",
    "PIP_TRUSTED_HOST",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_UPDATE_ROOT",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "npm_config_registry",
];

/// Variables that name a file of certificates, which is lent with them.
const CERTIFICATES: [&str; 8] = [
    "AWS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "npm_config_cafile",
];

/// Settings of pip and npm that are lent, each as the variable that says the same.
const OF_PIP: [&str; 7] = ["cert", "extra-index-url", "index-url", "proxy", "retries", "timeout", "trusted-host"];
const OF_NPM: [&str; 6] = ["cafile", "https-proxy", "noproxy", "proxy", "registry", "strict-ssl"];

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lent {
    pub(super) variables: BTreeMap<String, String>,
    /// By their paths inside.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Lent {
    /// What this machine has.
    pub(super) fn of_this_machine() -> Result<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let at_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let mut variables = BTreeMap::new();
        // What comes later stands.
        for file in [Some(PathBuf::from("/etc/pip.conf")), at_home(".pip/pip.conf"), at_home(".config/pip/pip.conf")].into_iter().flatten()
        {
            variables.extend(of_pip(&settings(&file)?));
        }
        for file in [Some(PathBuf::from("/etc/npmrc")), at_home(".npmrc")].into_iter().flatten() {
            variables.extend(of_npm(&settings(&file)?));
        }
        if let Some(file) = at_home(".config/go/env") {
            variables.extend(assignments(&settings(&file)?).filter(|(name, _)| VARIABLES.contains(&name.as_str())));
        }
        variables.extend(std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let known = [&VARIABLES[..], &CERTIFICATES, &PROXIES].concat().contains(&name.as_str());
            (known && !value.is_empty()).then_some((name, value))
        }));
        let mut lent = Self { variables, files: BTreeMap::new() };
        lent.take_certificates()?;
        if let Some(text) = of_apt() {
            lent.take_apt(&text)?;
        }
        Ok(lent)
    }

    /// Each file of certificates goes along, once.
    fn take_certificates(&mut self) -> Result<()> {
        for name in CERTIFICATES {
            if let Some(path) = self.variables.get(name).cloned() {
                let inside = self.take(&path).with_context(|| format!("{name} is {path}, which cannot be lent"))?;
                self.variables.insert(name.to_owned(), inside);
            }
        }
        Ok(())
    }

    /// Proxies and certificates of apt, in a file of its own language (`apt.conf(5)`).
    fn take_apt(&mut self, dump: &str) -> Result<()> {
        let mut lines = String::new();
        for line in dump.lines().filter_map(|line| line.strip_suffix("\";")) {
            let Some((name, value)) = line.split_once(" \"") else { continue };
            let lower = name.to_ascii_lowercase();
            if !lower.starts_with("acquire::") || value.is_empty() {
                continue;
            }
            let value = match lower.rsplit("::").next() {
                Some("cainfo") => self.take(value).with_context(|| format!("apt's {name} is {value}, which cannot be lent"))?,
                _ if lower.contains("::proxy") => value.to_owned(),
                _ => continue,
            };
            lines += &format!("{name} \"{value}\";\n");
        }
        if !lines.is_empty() {
            let path = format!("{PLACE}/apt.conf");
            self.variables.insert("APT_CONFIG".to_owned(), path.clone());
            self.files.insert(path, lines.into_bytes());
        }
        Ok(())
    }

    /// The path inside of a file of this machine, which goes along.
    fn take(&mut self, path: &str) -> Result<String> {
        use sha2::Digest as _;
        let mut content = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            bail!("it is larger than {} MiB", MAX_FILE >> 20);
        }
        let inside = format!("{PLACE}/{}.pem", &hex(&sha2::Sha256::digest(&content))[..16]);
        self.files.insert(inside.clone(), content);
        Ok(inside)
    }
}

/// A file of settings; one that is not there has none.
fn settings(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(text),
        file => file.and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

/// `name = value`, line by line; what is indented goes on with the line before, as pip has it.
fn assignments(text: &str) -> impl Iterator<Item = (String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let more = line.starts_with([' ', '\t']) && !line.trim().is_empty();
        match (pairs.last_mut(), line.split_once('=')) {
            (Some((_, value)), _) if more => *value = format!("{value} {}", line.trim()).trim_start().to_owned(),
            (_, Some((name, value))) => pairs.push((name.trim().to_owned(), value.trim().to_owned())),
            // A section, or nothing.
            _ => {}
        }
    }
    pairs.into_iter()
}

fn of_pip(text: &str) -> BTreeMap<String, String> {
    let variable = |name: &str| format!("PIP_{}", name.to_ascii_uppercase().replace('-', "_"));
    let known = assignments(text).filter(|(name, value)| OF_PIP.contains(&name.as_str()) && !value.is_empty());
    known.map(|(name, value)| (variable(if name == "timeout" { "default-timeout" } else { &name }), value)).collect()
}

/// Values may be in quotation marks; those that name variables are not resolved, and not lent.
fn of_npm(text: &str) -> BTreeMap<String, String> {
    let known = assignments(text).filter(|(name, value)| OF_NPM.contains(&name.as_str()) && !value.is_empty() && !value.contains("${"));
    known.map(|(name, value)| (format!("npm_config_{}", name.replace('-', "_")), value.trim_matches('"').to_owned())).collect()
}

/// All settings of this machine's apt, where there is one.
fn of_apt() -> Option<String> {
    let out = Command::new("apt-config").arg("dump").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_pip_and_npm_become_their_variables() {
        let pip = "[global]\n# a comment\nindex-url = https://mirror.example/simple\ntrusted-host =\n    a.example\n    b.example\ntimeout=9\n\
                   find-links = /wheels\n[install]\nno-index = true\n";
        let expect =
            [("PIP_DEFAULT_TIMEOUT", "9"), ("PIP_INDEX_URL", "https://mirror.example/simple"), ("PIP_TRUSTED_HOST", "a.example b.example")];
        assert_eq!(of_pip(pip), expect.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let npm = "registry=\"https://mirror.example/npm/\"\n//mirror.example/:_authToken=secret\nhttps-proxy=${PROXY}\nstrict-ssl=false\n";
        let expect = [("npm_config_registry", "https://mirror.example/npm/"), ("npm_config_strict_ssl", "false")];
        assert_eq!(of_npm(npm), expect.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn certificates_go_along_once_and_apt_keeps_its_proxies() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, "certificates").unwrap();
        let path = ca.to_str().unwrap();
        let mut lent = Lent::default();
        for name in ["PIP_CERT", "SSL_CERT_FILE"] {
            lent.variables.insert(name.to_owned(), path.to_owned());
        }
        lent.take_certificates().unwrap();
        assert_eq!(lent.files.len(), 1);
        let inside = lent.variables["PIP_CERT"].clone();
        assert!(inside.starts_with(PLACE) && lent.variables["SSL_CERT_FILE"] == inside && lent.files[&inside] == b"certificates");
        let dump = format!(
            "Acquire \"\";\nAcquire::http::Proxy \"http://p.example:1\";\nAcquire::https::CaInfo \"{path}\";\nAcquire::Retries \"3\";\n\
             DPkg::Pre-Invoke:: \"echo Proxy\";\n"
        );
        lent.take_apt(&dump).unwrap();
        let text = String::from_utf8(lent.files[&lent.variables["APT_CONFIG"]].clone()).unwrap();
        assert_eq!(text, format!("Acquire::http::Proxy \"http://p.example:1\";\nAcquire::https::CaInfo \"{inside}\";\n"));
        lent.variables.insert("PIP_CERT".to_owned(), "/nowhere".to_owned());
        assert!(format!("{:#}", lent.take_certificates().unwrap_err()).starts_with("PIP_CERT is /nowhere, which cannot be lent"));
    }
}
