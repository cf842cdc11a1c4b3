//! What all operations of this API have in common, for the description.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement, tag::TagBuilder},
};

use super::{NAME, answer::DaivError};
use crate::dialects;

pub(super) fn describe(document: &mut OpenApi) {
    let about = "The API of daiv-sandbox, for its clients, with and without its prefix (`/api/v1`) and a slash at the end. Unknown fields are passed over, \
                 and errors are `{\"detail\"}`";
    document.tags.get_or_insert_default().push(TagBuilder::new().name(NAME).description(Some(about)).build());
    let components = document.components.get_or_insert_default();
    components.schemas.insert(DaivError::name().into_owned(), DaivError::schema());
    let failure = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/json", utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name(DaivError::name())))))
        .build();
    let none: [&str; 0] = [];
    let header = vec![SecurityRequirement::new("header", none)];
    let own = document.paths.paths.iter_mut().filter(|(path, _)| dialects::of(path).is_some_and(|dialect| dialect.name == NAME));
    for (path, item) in own {
        for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten() {
            operation.responses.responses.insert("default".into(), failure.clone().into());
            if !path.starts_with("/-/") {
                operation.security = Some(header.clone());
            }
        }
    }
}
