//! What the configuration says of images. `caisson run` and `caisson image` read this part alone, from the environment.

use std::path::{Path, PathBuf};

use caisson_image::{Limits, Options, Registries, Registry};
use caisson_server::templates::TemplateFolder;

use super::{
    Problems,
    layers::Layers,
    settings::Setting,
    sources::{Environment, Sources},
    values::{self, Reader},
};
use crate::data_dir::{self, Surroundings};

/// Where Docker keeps logins, below the home directory.
const LOGINS: &str = ".docker/config.json";

pub(super) fn read(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Options {
    let mut registries = Registries::default();
    let insecure = reader.get(Setting::InsecureRegistries, |text| named(text, true)).unwrap_or_default();
    let private = reader.get(Setting::PrivateRegistries, |text| named(text, false)).unwrap_or_default();
    let mirrors = reader.get(Setting::RegistryMirrors, mirrors).unwrap_or_default();
    // Those with mirrors come last: what is said of a registry again says nothing of mirrors.
    for (host, registry) in private.into_iter().chain(insecure).chain(mirrors) {
        registries.add(&host, registry).expect("it was added before, to see whether it can be");
    }
    let default = Limits::default();
    let limits = Limits {
        bytes: reader.get(Setting::MaxImageSize, values::max_image_size).unwrap_or(default.bytes),
        entries: reader.get(Setting::MaxImageEntries, values::max_image_entries).unwrap_or(default.entries),
    };
    let of_docker = || surroundings.home.as_ref().map(|home| home.join(LOGINS));
    let logins = reader.get(Setting::RegistryLogins, values::path).or_else(of_docker);
    Options { limits, registries, logins }
}

type Named = Vec<(String, Registry)>;

/// Hosts, separated by commas.
fn named(text: &str, insecure: bool) -> Result<Named, String> {
    let hosts = text.split(',').map(str::trim).filter(|host| !host.is_empty());
    hosts.map(|host| checked(host, Registry { insecure, mirrors: Vec::new() })).collect()
}

/// `HOST=MIRROR`, several with commas between them; several mirrors of one host have spaces between them.
fn mirrors(text: &str) -> Result<Named, String> {
    let mut all: Named = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let form = || "expected HOST=MIRROR, such as docker.io=mirror.example.com; several are separated by commas".to_owned();
        let (host, mirrors) = pair.split_once('=').ok_or_else(form)?;
        let mirrors: Vec<String> = mirrors.split_whitespace().map(str::to_owned).collect();
        if mirrors.is_empty() {
            return Err(form());
        }
        let (host, registry) = checked(host.trim(), Registry { insecure: false, mirrors })?;
        if all.iter().any(|(other, _)| *other == host) {
            return Err(format!("has `{host}` twice; write several mirrors with spaces between them"));
        }
        all.push((host, registry));
    }
    Ok(all)
}

fn checked(host: &str, registry: Registry) -> Result<(String, Registry), String> {
    Registries::default().add(host, registry.clone()).map_err(|error| format!("{error}; write it as in names of images"))?;
    Ok((host.to_owned(), registry))
}

/// The images and templates of this machine, for commands that need no server.
#[derive(Debug)]
pub(crate) struct Here {
    /// Where they are.
    pub(crate) directory: PathBuf,
    templates: PathBuf,
    pub(crate) options: Options,
}

impl Here {
    /// What the environment says, and else where a server of this user would keep them.
    pub(crate) fn find() -> Result<Self, Problems> {
        Self::of(Environment::about(&Setting::OF_IMAGES), &Surroundings::now())
    }

    fn of(environment: Environment, surroundings: &Surroundings) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let layers = Layers::collect(&Sources { environment, ..Sources::default() }, &mut problems);
        let mut reader = Reader::new(&layers, &mut problems);
        let data_dir = reader.get(Setting::DataDir, values::path).or_else(|| surroundings.data_dir());
        let options = read(&mut reader, surroundings);
        match data_dir {
            Some(data_dir) if problems.is_empty() => {
                Ok(Self { directory: data_dir::images(&data_dir), templates: data_dir::templates(&data_dir), options })
            }
            None if problems.is_empty() => {
                Err(Problems(vec!["there is no directory for images, because HOME is not set; set CAISSON_DATA_DIR".to_owned()]))
            }
            _ => Err(Problems(problems)),
        }
    }

    /// Where the images are.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// The operator's templates.
    pub(crate) fn templates(&self) -> TemplateFolder {
        TemplateFolder::new(self.templates.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(variables: &[(&str, &str)]) -> Result<Here, Problems> {
        let environment = Environment(variables.iter().map(|(name, value)| (name.into(), value.into())).collect());
        let home = Some(PathBuf::from("/home/u"));
        Here::of(environment, &Surroundings { is_root: true, home, ..Surroundings::default() })
    }

    #[test]
    fn images_are_where_a_server_keeps_them() {
        let found = here(&[]).unwrap();
        assert_eq!(found.path(), Path::new("/var/lib/caisson/images"));
        assert_eq!(found.options, Options { logins: Some("/home/u/.docker/config.json".into()), ..Options::default() });
        assert_eq!(here(&[("CAISSON_DATA_DIR", "/srv")]).unwrap().path(), Path::new("/srv/images"));
    }

    #[test]
    fn registries_are_spelled_out() {
        let found = here(&[
            ("CAISSON_INSECURE_REGISTRIES", "localhost:5000, Registry.lan"),
            ("CAISSON_PRIVATE_REGISTRIES", "10.0.0.1"),
            ("CAISSON_REGISTRY_MIRRORS", "docker.io=localhost:5000 mirror.lan,quay.io=mirror.lan"),
            ("CAISSON_REGISTRY_LOGINS", "/etc/logins.json"),
            ("CAISSON_MAX_IMAGE_SIZE", "1G"),
            ("CAISSON_MAX_IMAGE_ENTRIES", "1000"),
        ])
        .unwrap();
        let mut registries = Registries::default();
        let insecure = || Registry { insecure: true, mirrors: Vec::new() };
        let with = |mirrors: &[&str]| Registry { insecure: false, mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect() };
        registries.add("10.0.0.1", with(&[])).unwrap();
        registries.add("localhost:5000", insecure()).unwrap();
        registries.add("registry.lan", insecure()).unwrap();
        registries.add("docker.io", with(&["localhost:5000", "mirror.lan"])).unwrap();
        registries.add("quay.io", with(&["mirror.lan"])).unwrap();
        let limits = Limits { bytes: 1 << 30, entries: 1000 };
        assert_eq!(found.options, Options { limits, registries, logins: Some("/etc/logins.json".into()) });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (name, value, word) in [
            ("CAISSON_INSECURE_REGISTRIES", "http://a", "is no registry"),
            ("CAISSON_PRIVATE_REGISTRIES", "a/b", "is no registry"),
            ("CAISSON_REGISTRY_MIRRORS", "docker.io", "HOST=MIRROR"),
            ("CAISSON_REGISTRY_MIRRORS", "docker.io= ", "HOST=MIRROR"),
            ("CAISSON_REGISTRY_MIRRORS", "a.b=c.d,a.b=e.f", "twice"),
            ("CAISSON_REGISTRY_MIRRORS", "a.b=http://x", "is no registry"),
            ("CAISSON_MAX_IMAGE_SIZE", "1", "allowed is"),
            ("CAISSON_MAX_IMAGE_ENTRIES", "none", "expected a number"),
        ] {
            let problems = here(&[(name, value)]).unwrap_err().0;
            assert!(problems.len() == 1 && problems[0].contains(name) && problems[0].contains(word), "{problems:?}");
        }
    }
}
