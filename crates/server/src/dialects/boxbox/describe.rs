//! What all operations of this API have in common, for the description.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        OpenApi, Ref, RefOr, Required, ResponseBuilder, SecurityRequirement,
        path::{ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
        tag::TagBuilder,
    },
};

use super::{NAME, answer::BoxboxError};
use crate::dialects;

pub(super) fn describe(document: &mut OpenApi) {
    let about = "The API of boxbox, for its clients. Unknown fields are passed over, and errors are `{\"error\", \"message\"}`";
    document.tags.get_or_insert_default().push(TagBuilder::new().name(NAME).description(Some(about)).build());
    let components = document.components.get_or_insert_default();
    components.schemas.insert(BoxboxError::name().into_owned(), BoxboxError::schema());
    let failure = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/json", utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name(BoxboxError::name())))))
        .build();
    let header = |name: &str, about: &str| {
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255)).build();
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(about))
            .schema(Some(text))
            .build()
    };
    let none: [&str; 0] = [];
    let either = vec![SecurityRequirement::new("header", none), SecurityRequirement::new("bearer", none)];
    let own = document.paths.paths.iter_mut().filter(|(path, _)| dialects::of(path).is_some_and(|dialect| dialect.name == NAME));
    for (_, item) in own {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.responses.responses.insert("default".into(), failure.clone().into());
            operation.security = Some(either.clone());
            let both = [header("X-User-ID", "Whose files and executions these are"), header("X-Chat-ID", "In which chat of the user")];
            operation.parameters.get_or_insert_default().extend(both.map(Into::into));
        }
    }
}
