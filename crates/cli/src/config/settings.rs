//! The names of the configuration: every key there is.

use super::{boxbox, daiv};

/// What can be configured. The name in `caisson.toml` is that of [`Setting::name`]; in the environment it is upper-case behind `CAISSON_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Setting {
    Listen,
    DataDir,
    ApiKey,
    Auth,
    Log,
    LogFormat,
    MaxSandboxes,
    QueueWait,
    DatabaseUrl,
    RedisUrl,
    PeerUrl,
    ServerLease,
    Retention,
    RetentionSandboxes,
    StoppedGraceS,
    MaxStopped,
    OutputLog,
    InlineOutput,
    Pool,
    Egress,
    EgressAddresses,
    EgressPackages,
    EgressCaCertFile,
    EgressCaKeyFile,
    Dns,
    AcceptWeakerLimits,
    Backend,
    Backends,
    OciRuntimes,
    DockerHost,
    DockerTlsVerify,
    DockerCertPath,
    PublicUrl,
    PublicDomain,
    BoxedApiKey,
    SandboxApiKey,
    BoxboxApiKey,
    BoxboxImage,
    BoxboxDockerfile,
    DaivApiKey,
    ImageAliases,
    InsecureRegistries,
    PrivateRegistries,
    RegistryMirrors,
    RegistryLogins,
    MaxImageSize,
    MaxImageEntries,
    BlobUrl,
    S3Endpoint,
    S3Region,
    S3AccessKeyId,
    S3SecretAccessKey,
    S3SessionToken,
}

/// In front of every name in the environment.
pub(super) const PREFIX: &str = "CAISSON_";

/// Names of other systems in the environment, and what they are here.
pub(super) const ALIASES: [(&str, Setting); 22] = [
    ("DATABASE_URL", Setting::DatabaseUrl),
    ("DAIV_SANDBOX_REDIS_URL", Setting::RedisUrl),
    ("DOCKER_HOST", Setting::DockerHost),
    ("DOCKER_TLS_VERIFY", Setting::DockerTlsVerify),
    ("DOCKER_CERT_PATH", Setting::DockerCertPath),
    ("BOXED_API_KEY", Setting::BoxedApiKey),
    ("SANDBOX_API_KEY", Setting::SandboxApiKey),
    ("API_KEY", Setting::BoxboxApiKey),
    ("DAYTONA_IMAGE", Setting::BoxboxImage),
    ("DAIV_SANDBOX_API_KEY", Setting::DaivApiKey),
    ("DAIV_SANDBOX_EGRESS_CA_CERT_FILE", Setting::EgressCaCertFile),
    ("DAIV_SANDBOX_EGRESS_CA_KEY_FILE", Setting::EgressCaKeyFile),
    ("S3_BUCKET", Setting::BlobUrl),
    ("S3_ENDPOINT", Setting::S3Endpoint),
    ("S3_REGION", Setting::S3Region),
    ("S3_ACCESS_KEY_ID", Setting::S3AccessKeyId),
    ("S3_SECRET_ACCESS_KEY", Setting::S3SecretAccessKey),
    ("AWS_ENDPOINT_URL", Setting::S3Endpoint),
    ("AWS_REGION", Setting::S3Region),
    ("AWS_ACCESS_KEY_ID", Setting::S3AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", Setting::S3SecretAccessKey),
    ("AWS_SESSION_TOKEN", Setting::S3SessionToken),
];

/// Names in the environment that mean something to other commands.
const OF_OTHER_COMMANDS: [&str; 1] = ["CAISSON_SERVER"];

impl Setting {
    pub(super) const ALL: [Self; 53] = [
        Self::Listen,
        Self::DataDir,
        Self::ApiKey,
        Self::Auth,
        Self::Log,
        Self::LogFormat,
        Self::MaxSandboxes,
        Self::QueueWait,
        Self::DatabaseUrl,
        Self::RedisUrl,
        Self::PeerUrl,
        Self::ServerLease,
        Self::Retention,
        Self::RetentionSandboxes,
        Self::StoppedGraceS,
        Self::MaxStopped,
        Self::OutputLog,
        Self::InlineOutput,
        Self::Pool,
        Self::Egress,
        Self::EgressAddresses,
        Self::EgressPackages,
        Self::EgressCaCertFile,
        Self::EgressCaKeyFile,
        Self::Dns,
        Self::AcceptWeakerLimits,
        Self::Backend,
        Self::Backends,
        Self::OciRuntimes,
        Self::DockerHost,
        Self::DockerTlsVerify,
        Self::DockerCertPath,
        Self::PublicUrl,
        Self::PublicDomain,
        Self::BoxedApiKey,
        Self::SandboxApiKey,
        Self::BoxboxApiKey,
        Self::BoxboxImage,
        Self::BoxboxDockerfile,
        Self::DaivApiKey,
        Self::ImageAliases,
        Self::InsecureRegistries,
        Self::PrivateRegistries,
        Self::RegistryMirrors,
        Self::RegistryLogins,
        Self::MaxImageSize,
        Self::MaxImageEntries,
        Self::BlobUrl,
        Self::S3Endpoint,
        Self::S3Region,
        Self::S3AccessKeyId,
        Self::S3SecretAccessKey,
        Self::S3SessionToken,
    ];

    /// Those that say where images are and where they come from.
    pub(super) const OF_IMAGES: [Self; 7] = [
        Self::DataDir,
        Self::InsecureRegistries,
        Self::PrivateRegistries,
        Self::RegistryMirrors,
        Self::RegistryLogins,
        Self::MaxImageSize,
        Self::MaxImageEntries,
    ];

    /// The name in `caisson.toml`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::DataDir => "data_dir",
            Self::ApiKey => "api_key",
            Self::Auth => "auth",
            Self::Log => "log",
            Self::LogFormat => "log_format",
            Self::MaxSandboxes => "max_sandboxes",
            Self::QueueWait => "queue_wait",
            Self::DatabaseUrl => "database_url",
            Self::RedisUrl => "redis_url",
            Self::PeerUrl => "peer_url",
            Self::ServerLease => "server_lease",
            Self::Retention => "retention",
            Self::RetentionSandboxes => "retention_sandboxes",
            Self::StoppedGraceS => "stopped_grace_s",
            Self::MaxStopped => "max_stopped",
            Self::OutputLog => "output_log",
            Self::InlineOutput => "inline_output",
            Self::Pool => "pool",
            Self::Egress => "egress",
            Self::EgressAddresses => "egress_addresses",
            Self::EgressPackages => "egress_packages",
            Self::EgressCaCertFile => "egress_ca_cert_file",
            Self::EgressCaKeyFile => "egress_ca_key_file",
            Self::Dns => "dns",
            Self::AcceptWeakerLimits => "accept_weaker_limits",
            Self::Backend => "backend",
            Self::Backends => "backends",
            Self::OciRuntimes => "oci_runtimes",
            Self::DockerHost => "docker_host",
            Self::DockerTlsVerify => "docker_tls_verify",
            Self::DockerCertPath => "docker_cert_path",
            Self::PublicUrl => "public_url",
            Self::PublicDomain => "public_domain",
            Self::BoxedApiKey => "boxed_api_key",
            Self::SandboxApiKey => "sandbox_api_key",
            Self::BoxboxApiKey => "boxbox_api_key",
            Self::BoxboxImage => "boxbox_image",
            Self::BoxboxDockerfile => "boxbox_dockerfile",
            Self::DaivApiKey => "daiv_api_key",
            Self::ImageAliases => "image_aliases",
            Self::InsecureRegistries => "insecure_registries",
            Self::PrivateRegistries => "private_registries",
            Self::RegistryMirrors => "registry_mirrors",
            Self::RegistryLogins => "registry_logins",
            Self::MaxImageSize => "max_image_size",
            Self::MaxImageEntries => "max_image_entries",
            Self::BlobUrl => "blob_url",
            Self::S3Endpoint => "s3_endpoint",
            Self::S3Region => "s3_region",
            Self::S3AccessKeyId => "s3_access_key_id",
            Self::S3SecretAccessKey => "s3_secret_access_key",
            Self::S3SessionToken => "s3_session_token",
        }
    }

    /// Whether it is shown to nobody.
    pub(super) fn is_secret(self) -> bool {
        use Setting::{
            ApiKey, BoxboxApiKey, BoxedApiKey, DaivApiKey, DatabaseUrl, RedisUrl, S3SecretAccessKey, S3SessionToken, SandboxApiKey,
        };
        matches!(
            self,
            ApiKey | BoxboxApiKey | BoxedApiKey | DaivApiKey | DatabaseUrl | RedisUrl | S3SecretAccessKey | S3SessionToken | SandboxApiKey
        )
    }
}

/// What a name stands for.
pub(super) enum Found {
    Setting(Setting),
    /// Means something, but not here.
    Elsewhere,
    /// Why it is refused.
    Refused(String),
}

/// The key of this name in `caisson.toml`.
pub(super) fn in_file(name: &str) -> Found {
    find(name, str::to_owned)
}

/// The key of this name in the environment.
pub(super) fn in_environment(variable_name: &str) -> Found {
    if OF_OTHER_COMMANDS.contains(&variable_name) || boxbox::NAMES.contains(&variable_name) {
        return Found::Elsewhere;
    }
    if let Some((_, key)) = ALIASES.iter().find(|(alias, _)| *alias == variable_name) {
        return Found::Setting(*key);
    }
    // What others say there is told in the log.
    if daiv::is_its(variable_name) {
        return Found::Elsewhere;
    }
    // A name in lower case is another name.
    let name = variable_name.strip_prefix(PREFIX).filter(|rest| *rest == rest.to_uppercase()).unwrap_or("").to_lowercase();
    find(&name, variable)
}

pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase())
}

fn find(name: &str, shown: impl Fn(&str) -> String) -> Found {
    if let Some(key) = Setting::ALL.into_iter().find(|key| key.name() == name) {
        return Found::Setting(key);
    }
    let nearest = Setting::ALL.into_iter().map(Setting::name).map(|known| (distance(name, known), known)).min();
    Found::Refused(match nearest {
        Some((distance, known)) if distance <= 2 => format!("is not known; did you mean {}?", shown(known)),
        _ => format!("is not known; known are {}", Setting::ALL.map(|key| shown(key.name())).join(", ")),
    })
}

/// How many letters have to be changed, added or removed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted() {
        for (a, b, expect) in
            [("", "", 0), ("listen", "listen", 0), ("lissen", "listen", 1), ("listn", "listen", 1), ("", "abc", 3), ("log", "auth", 4)]
        {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }
}
