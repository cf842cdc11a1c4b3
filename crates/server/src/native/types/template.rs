//! Templates: named recipes for sandboxes.

use std::{collections::BTreeMap, fmt, time::Duration};

use caisson_core::{Error, Image, Recipe, Result, SandboxSpec, SetupCommand, SetupStep, Tenant, Warmth};
use caisson_engine::{CreateRequest, RunRequest, bounds::NOTE_LENGTH, known_language};
use caisson_image::Reference;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};
use utoipa::ToSchema;

use super::{
    CreateBody, LimitsBody, NetworkBody, Number, RunBody,
    field::{given, object, unique, unique_lists},
    program::named_backend,
};
use crate::templates::{LARGEST, Read, Template};

/// How long a set-up command may take when nothing is said.
const SETUP_WITHIN: Duration = Duration::from_secs(300);
/// As many as can be asked to be kept ready.
pub const MOST_WARM: u32 = 1000;
/// How many are kept ready at most where a template says only how many at least.
const WARM_WHERE_NOTHING_IS_SAID: u32 = 8;
/// So much of a name is told, in characters.
const SHOWN_NAME: usize = 300;

/// What a template says: all that a request for a sandbox may say, and what is done in the sandbox before anybody gets it. What a request says
/// itself comes first; of `env` and `metadata` both are taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Recipe)]
pub struct RecipeBody {
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `host`, or an image by its name, such as `alpine:3.20`. It is not got from a registry by being named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsBody>,
    /// Variables for every program. Everybody who may use the template may read them.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it may reach; nothing but itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkBody>,
    /// What makes it: `native`, or another that `GET /v1/backends` names; the server's choice when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `memory`, counted as memory and fast; or `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Who programs are, those of `setup` included: `user`, an ordinary one, when absent; or `root`, root of the sandbox alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Where programs start when the request names no directory; an absolute path. It is made where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    /// For sandboxes that stay: seconds from creation until the end, null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub lifetime_s: Option<Option<Number>>,
    /// For sandboxes that stay: seconds without a request and without a running execution until the end, null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub idle_timeout_s: Option<Option<Number>>,
    /// For one-shots: seconds until the program is killed, null for no limit. Set-up does not count.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub timeout_s: Option<Option<Number>>,
    /// Labels of the client's own.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Commands that are run in a new sandbox, in order, before it is handed over. The first that fails ends it, with `setup_failed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<SetupBody>,
    /// What runs code, by language: a program and what it is called with; the code's file comes behind, or stands where a word is `{file}`.
    #[serde(deserialize_with = "unique_lists", skip_serializing_if = "BTreeMap::is_empty")]
    pub interpreters: BTreeMap<String, Vec<String>>,
    /// Sandboxes that are kept ready at all times, 0 to 1000. For templates of the operator alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_warm: Option<u32>,
    /// Sandboxes that are kept ready at most, when many are asked for, 0 to 1000; 8, or `min_warm` where that is more, when only that is given.
    /// None are kept where neither is given, or this is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_warm: Option<u32>,
    /// Languages whose interpreters wait, already started, in sandboxes that are kept warm: `python`, `node` and `bash`. When absent, `python`
    /// where `preload` names something, and none otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Vec<String>>,
    /// Modules that a waiting Python has imported, 32 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preload: Vec<String>,
}

/// A set-up command: a command line for the sandbox's shell, a program with its arguments, or either with a time limit.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Setup)]
pub enum SetupBody {
    Line(String),
    Words(Vec<String>),
    Step(SetupStepBody),
}

/// A set-up command with all that can be said of it: exactly one of `shell` and `cmd`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = SetupStep)]
pub struct SetupStepBody {
    /// A command line for the sandbox's shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// A program and its arguments, no shell involved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Seconds until it is killed, and has failed; 300 when absent, 3600 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub timeout_s: Option<Number>,
}

impl<'de> Deserialize<'de> for SetupBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Command;
        impl<'de> Visitor<'de> for Command {
            type Value = SetupBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command line, a list of words, or an object with `shell` or `cmd`")
            }

            fn visit_str<E>(self, line: &str) -> Result<SetupBody, E> {
                Ok(SetupBody::Line(line.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<SetupBody, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(words)).map(SetupBody::Words)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<SetupBody, A::Error> {
                SetupStepBody::deserialize(MapAccessDeserializer::new(fields)).map(SetupBody::Step)
            }
        }
        deserializer.deserialize_any(Command)
    }
}

impl SetupBody {
    fn to_core(&self, index: usize) -> Result<SetupStep> {
        let (command, timeout) = match self {
            Self::Line(line) => (SetupCommand::Shell(line.clone()), None),
            Self::Words(words) => (SetupCommand::Argv(words.clone()), None),
            Self::Step(SetupStepBody { shell: Some(line), cmd: None, timeout_s }) => (SetupCommand::Shell(line.clone()), *timeout_s),
            Self::Step(SetupStepBody { shell: None, cmd: Some(words), timeout_s }) => (SetupCommand::Argv(words.clone()), *timeout_s),
            Self::Step(_) => {
                return Err(Error::invalid("invalid_setup", format!("field `setup[{index}]` needs exactly one of `shell` and `cmd`")));
            }
        };
        let within = timeout.map(|seconds| seconds.seconds(&format!("setup[{index}].timeout_s"))).transpose()?;
        Ok(SetupStep { command, within: within.unwrap_or(SETUP_WITHIN) })
    }
}

impl RecipeBody {
    /// Refuses what no sandbox could be made of, naming the field.
    pub fn check(&self) -> Result<()> {
        if let Some(description) = &self.description
            && (description.chars().nth(NOTE_LENGTH).is_some() || description.contains('\0'))
        {
            let message = format!("field `description` has at most {NOTE_LENGTH} characters, and no NUL");
            return Err(Error::invalid("invalid_description", message));
        }
        self.warmth(None)?;
        self.network.as_ref().map_or(Ok(()), NetworkBody::check_without_secrets)?;
        let image: Option<Image> = self.image.as_ref().map(|text| text.parse()).transpose().map_err(|_| self.bad_image("it is no name"))?;
        if let Some(Image::Named { name, .. }) = image {
            name.parse::<Reference>().map_err(|error| self.bad_image(&error.to_string()))?;
        }
        caisson_engine::check_create(&self.create("check", None, CreateBody::default())?)?;
        caisson_engine::check_run(&self.run("check", None, RunBody { shell: Some("true".to_owned()), ..RunBody::default() })?)?;
        match serde_json::to_vec(self).map_or(0, |text| text.len()) {
            length if length > LARGEST => {
                Err(Error::TooLarge { message: format!("a template has {} KiB at most; put files into its image", LARGEST >> 10) })
            }
            _ => Ok(()),
        }
    }

    fn bad_image(&self, why: &str) -> Error {
        let shown: String = self.image.iter().flat_map(|text| text.chars()).take(SHOWN_NAME).collect();
        Error::invalid("invalid_image_name", format!("field `image` is `{}`: {why}", shown.escape_debug()))
    }

    /// How many are kept ready.
    fn warmth(&self, owner: Option<&Tenant>) -> Result<Option<Warmth>> {
        for (name, value) in [("min_warm", self.min_warm), ("max_warm", self.max_warm)] {
            if let Some(value) = value.filter(|value| *value > MOST_WARM) {
                let message = format!("field `{name}` is {value}, allowed is 0 to {MOST_WARM}");
                return Err(Error::invalid("limit_out_of_range", message));
            }
        }
        let (min, max) = match (self.min_warm, self.max_warm) {
            (None, None) => return Ok(None),
            (min, max) => (min.unwrap_or(0), max.unwrap_or_else(|| min.unwrap_or(0).max(WARM_WHERE_NOTHING_IS_SAID))),
        };
        if min > max {
            let message = format!("field `min_warm` is {min}, more than the {max} of `max_warm`");
            return Err(Error::invalid("limit_out_of_range", message));
        }
        Ok(Some(Warmth { min, max, env: self.env.clone(), owner: owner.cloned(), ..Warmth::default() }))
    }

    /// A template's wall is not for its users to take down.
    fn backend_with(&self, asked: Option<String>) -> Result<Option<String>> {
        match (&self.backend, asked) {
            (Some(own), Some(other)) if *own != other => Err(Error::invalid(
                "backend_of_template",
                format!("the template has backend `{own}`, which a request cannot change; leave `backend` out, or use another template"),
            )),
            (own, asked) => Ok(own.clone().or(asked)),
        }
    }

    fn create(&self, name: &str, owner: Option<&Tenant>, body: CreateBody) -> Result<CreateRequest> {
        let mut request = CreateBody {
            image: body.image.or_else(|| self.image.clone()),
            limits: self.limits_under(body.limits),
            env: over(&self.env, body.env),
            network: body.network.or_else(|| self.network.clone()),
            backend: self.backend_with(body.backend)?,
            storage: body.storage.or_else(|| self.storage.clone()),
            user: body.user.or_else(|| self.user.clone()),
            hostname: body.hostname.or_else(|| self.hostname.clone()),
            lifetime_s: body.lifetime_s.or(self.lifetime_s),
            idle_timeout_s: body.idle_timeout_s.or(self.idle_timeout_s),
            metadata: over(&self.metadata, body.metadata),
            template: None,
            name: body.name,
            pull: body.pull,
        }
        .into_request()?;
        self.furnish(name, owner, &mut request.spec)?;
        Ok(request)
    }

    fn run(&self, name: &str, owner: Option<&Tenant>, body: RunBody) -> Result<RunRequest> {
        let mut request = RunBody {
            image: body.image.or_else(|| self.image.clone()),
            limits: self.limits_under(body.limits),
            network: body.network.or_else(|| self.network.clone()),
            backend: self.backend_with(body.backend)?,
            storage: body.storage.or_else(|| self.storage.clone()),
            user: body.user.or_else(|| self.user.clone()),
            timeout_s: body.timeout_s.or(self.timeout_s),
            metadata: over(&self.metadata, body.metadata),
            template: None,
            ..body
        }
        .into_request()?;
        // Those of the request are the program's, and so come over these.
        request.spec.env.clone_from(&self.env);
        if let Some(hostname) = &self.hostname {
            request.spec.hostname.clone_from(hostname);
        }
        self.furnish(name, owner, &mut request.spec)?;
        Ok(request)
    }

    /// What no request can say.
    fn furnish(&self, name: &str, owner: Option<&Tenant>, spec: &mut SandboxSpec) -> Result<()> {
        if let Some(work_dir) = &self.work_dir {
            spec.work_dir.clone_from(work_dir);
            spec.left_to_image.work_dir = false;
        }
        let mut interpreters = BTreeMap::new();
        for (asked, words) in &self.interpreters {
            // What is unknown is refused by its name where all of it is checked.
            let language = known_language(asked).unwrap_or(asked);
            if interpreters.insert(language.to_owned(), words.clone()).is_some() {
                let message = format!("field `interpreters.{language}` is given twice, once by another name");
                return Err(Error::invalid("invalid_template", message));
            }
        }
        let setup = self.setup.iter().enumerate().map(|(index, step)| step.to_core(index)).collect::<Result<_>>()?;
        let ready = match &self.ready {
            // What is unknown is refused likewise.
            Some(names) => names.iter().map(|asked| known_language(asked).unwrap_or(asked).to_owned()).collect(),
            None if self.preload.is_empty() => Vec::new(),
            None => vec!["python".to_owned()],
        };
        let warm = self.warmth(owner)?;
        let (template, preload) = (Some(name.to_owned()), self.preload.clone());
        spec.recipe = Recipe { template, setup, interpreters, ready, preload, warm, ..Recipe::default() };
        Ok(())
    }

    fn limits_under(&self, given: Option<LimitsBody>) -> Option<LimitsBody> {
        match (given, self.limits) {
            (Some(given), Some(ours)) => Some(given.over(ours)),
            (given, ours) => given.or(ours),
        }
    }
}

fn over(ours: &BTreeMap<String, String>, given: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = ours.clone();
    all.extend(given);
    all
}

impl Template {
    /// The sandbox that a request asks for, made from this template.
    pub fn create(&self, body: CreateBody) -> Result<CreateRequest> {
        self.recipe.create(self.name.as_str(), self.owner.as_ref(), body)
    }

    /// A sandbox that somebody else says the rest of: what the template says holds over that.
    pub(crate) fn over(&self, mut spec: SandboxSpec) -> Result<SandboxSpec> {
        let recipe = &*self.recipe;
        if let Some(limits) = recipe.limits {
            spec.limits = limits.over(LimitsBody::from(&spec.limits)).to_core()?;
        }
        if let Some(image) = &recipe.image {
            spec.image = image.parse()?;
        }
        if let Some(network) = &recipe.network {
            spec.network = network.to_core()?;
        }
        if let Some(backend) = &recipe.backend {
            spec.backend = named_backend(backend.clone())?;
        }
        if let Some(storage) = &recipe.storage {
            spec.storage = storage.parse()?;
        }
        if let Some(user) = &recipe.user {
            spec.user = user.parse()?;
            spec.left_to_image.user = false;
        }
        if let Some(hostname) = &recipe.hostname {
            spec.hostname.clone_from(hostname);
        }
        spec.env.extend(recipe.env.clone());
        recipe.furnish(self.name.as_str(), self.owner.as_ref(), &mut spec)?;
        Ok(spec)
    }

    /// The same for a one-shot.
    pub fn run(&self, body: RunBody) -> Result<RunRequest> {
        self.recipe.run(self.name.as_str(), self.owner.as_ref(), body)
    }
}

/// A template.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Template)]
pub struct TemplateBody {
    pub name: String,
    /// `everybody`: a file of the server, by its operator; or `own`: the tenant's.
    pub whose: String,
    /// What it says; null where that cannot be read.
    pub recipe: Option<RecipeBody>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is kept warm of it; absent in lists, and where it does not say how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolBody>,
}

/// Sandboxes of a template that are kept ready.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = TemplatePool)]
pub struct PoolBody {
    /// Those that wait now.
    pub warm: u64,
    /// As many as what was asked for lately needs, within the template's bounds.
    pub target: u64,
}

impl TemplateBody {
    pub(crate) fn own(name: String, recipe: RecipeBody) -> Self {
        Self { name, whose: "own".to_owned(), recipe: Some(recipe), problem: None, pool: None }
    }

    /// One of the operator's files.
    #[must_use]
    pub fn everybodys(name: String, read: Read) -> Self {
        let (recipe, problem) = match read {
            Ok(recipe) => (Some((*recipe).clone()), None),
            Err(why) => (None, Some(why)),
        };
        Self { name, whose: "everybody".to_owned(), recipe, problem, pool: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn template(recipe: Value) -> Template {
        Template { name: "t".parse().unwrap(), owner: None, recipe: Arc::new(serde_json::from_value(recipe).unwrap()) }
    }

    fn whole() -> Template {
        template(json!({
            "image": "alpine:3.20", "storage": "disk", "user": "root", "hostname": "h", "work_dir": "/srv",
            "limits": {"memory_bytes": 64 << 20, "pids": 50}, "env": {"A": "t", "B": "t"}, "metadata": {"a": "t", "b": "t"},
            "lifetime_s": null, "idle_timeout_s": 60, "timeout_s": 5, "setup": ["true"], "interpreters": {"py": ["/p"]},
        }))
    }

    #[test]
    fn a_template_says_what_the_request_does_not() {
        let made = whole().create(CreateBody::default()).unwrap();
        let spec = &made.spec;
        assert_eq!((spec.image.name(), spec.storage.as_str(), spec.user.name.as_str()), ("alpine:3.20", "disk", "root"));
        assert_eq!((spec.hostname.as_str(), spec.work_dir.as_str(), spec.left_to_image.work_dir), ("h", "/srv", false));
        assert_eq!((spec.limits.memory_bytes, spec.limits.pids, spec.env["A"].as_str()), (64 << 20, 50, "t"));
        assert_eq!((made.time_limits.lifetime, made.time_limits.idle_timeout), (None, Some(Duration::from_secs(60))));
        assert_eq!((spec.recipe.template.as_deref(), spec.recipe.setup.len()), (Some("t"), 1));
        assert_eq!(spec.recipe.interpreters["python"], ["/p"]);
    }

    #[test]
    fn python_waits_where_modules_are_to_be_imported() {
        for (recipe, ready) in [
            (json!({}), &[][..]),
            (json!({"preload": ["numpy"]}), &["python"]),
            (json!({"ready": ["js", "bash"]}), &["node", "bash"]),
            (json!({"ready": []}), &[]),
        ] {
            let recipe = template(recipe).create(CreateBody::default()).unwrap().spec.recipe;
            assert_eq!(recipe.ready, ready);
        }
    }

    #[test]
    fn what_the_request_says_comes_first_and_maps_are_merged() {
        let body: CreateBody = serde_json::from_value(json!({
            "image": "host", "user": "user", "hostname": "r", "limits": {"pids": 99}, "env": {"B": "r", "C": "r"},
            "metadata": {"b": "r"}, "lifetime_s": 7, "idle_timeout_s": null,
        }))
        .unwrap();
        let made = whole().create(body).unwrap();
        assert_eq!((made.spec.image, made.spec.user.name.as_str(), made.spec.hostname.as_str()), (Image::Host, "user", "r"));
        assert_eq!((made.spec.limits.memory_bytes, made.spec.limits.pids), (64 << 20, 99));
        assert_eq!(made.spec.env.values().collect::<Vec<_>>(), ["t", "r", "r"]);
        assert_eq!(made.metadata.values().collect::<Vec<_>>(), ["t", "r"]);
        assert_eq!((made.time_limits.lifetime, made.time_limits.idle_timeout), (Some(Duration::from_secs(7)), None));
    }

    #[test]
    fn what_somebody_else_says_stays_where_the_template_says_nothing() {
        let base = || SandboxSpec {
            work_dir: "/there".to_owned(),
            env: BTreeMap::from([("Z".to_owned(), "z".to_owned())]),
            ..SandboxSpec::default()
        };
        let spec = template(json!({"limits": {"pids": 99}, "env": {"A": "t"}})).over(base()).unwrap();
        assert_eq!((spec.limits.pids, spec.limits.memory_bytes), (99, base().limits.memory_bytes));
        assert_eq!((spec.work_dir.as_str(), spec.env.len(), spec.image), ("/there", 2, Image::Host));
        let spec = whole().over(base()).unwrap();
        assert_eq!((spec.work_dir.as_str(), spec.user.name.as_str(), spec.recipe.template.as_deref()), ("/srv", "root", Some("t")));
    }

    #[test]
    fn one_shots_are_made_alike() {
        let body: RunBody = serde_json::from_value(json!({"shell": "true", "env": {"B": "r"}})).unwrap();
        let run = whole().run(body).unwrap();
        assert_eq!((run.exec.timeout, run.exec.env["B"].as_str()), (Some(Duration::from_secs(5)), "r"));
        assert_eq!((run.spec.env["B"].as_str(), run.spec.hostname.as_str(), run.spec.work_dir.as_str()), ("t", "h", "/srv"));
        let body: RunBody = serde_json::from_value(json!({"shell": "true", "timeout_s": null})).unwrap();
        assert_eq!(whole().run(body).unwrap().exec.timeout, None);
        let of_image = whole().run(RunBody::default()).unwrap();
        assert_eq!(of_image.exec.program, caisson_engine::Program::OfImage, "its image may say what to run");
    }

    #[test]
    fn a_request_that_still_names_a_template_is_not_one_without() {
        let body = CreateBody { template: Some("t".to_owned()), ..CreateBody::default() };
        assert!(body.into_request().is_err());
        let body = RunBody { template: Some("t".to_owned()), shell: Some("true".to_owned()), ..RunBody::default() };
        assert!(body.into_request().is_err());
    }
}
