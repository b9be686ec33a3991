//! The calls about the server, its model, its health, and memory that is shared with it.

use std::sync::Arc;

use super::protocol::SERVICE;
use super::protocol::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use super::protocol::inference::model_metadata_response::TensorMetadata;
use super::protocol::inference::repository_index_response::ModelIndex;
use super::protocol::inference::system_shared_memory_status_response::RegionStatus;
use super::protocol::inference::*;
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::{self, MODEL, VERSION, require_model, require_version};
use crate::serve::core::service::Service;
use crate::serve::core::shared_memory::Region;
use crate::serve::core::statistics::{BatchCounters, Times};

pub(super) fn server_live(_: &Service, _: ServerLiveRequest) -> Result<ServerLiveResponse, ApiError> {
    Ok(ServerLiveResponse { live: true })
}

pub(super) fn server_ready(service: &Service, _: ServerReadyRequest) -> Result<ServerReadyResponse, ApiError> {
    Ok(ServerReadyResponse { ready: service.is_ready() })
}

/// A model that is not here is not ready either: Triton's clients expect an answer.
pub(super) fn model_ready(service: &Service, asked: ModelReadyRequest) -> Result<ModelReadyResponse, ApiError> {
    let is_here = require_model(&asked.name).and_then(|()| require_version(&asked.version)).is_ok();
    Ok(ModelReadyResponse { ready: is_here && service.is_ready() })
}

/// gRPC's health protocol: services by their full names, or all of them together.
pub(super) fn health(service: &Service, asked: HealthCheckRequest) -> Result<HealthCheckResponse, ApiError> {
    if !["", SERVICE].contains(&&asked.service[..]) {
        return Err(ApiError::NotFound { what: format!("service {:?}", asked.service) });
    }
    let status = if service.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    Ok(HealthCheckResponse { status: status.into() })
}

pub(super) fn server_metadata(service: &Service, _: ServerMetadataRequest) -> Result<ServerMetadataResponse, ApiError> {
    Ok(ServerMetadataResponse {
        name: MODEL.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: metadata::extensions(service).map(String::from).collect(),
    })
}

pub(super) fn model_metadata(
    service: &Service,
    asked: ModelMetadataRequest,
) -> Result<ModelMetadataResponse, ApiError> {
    require_model(&asked.name)?;
    require_version(&asked.version)?;
    let tensor = |(name, datatype, shape): (&str, &str, Vec<i64>)| TensorMetadata {
        name: name.into(),
        datatype: datatype.into(),
        shape,
    };
    Ok(ModelMetadataResponse {
        name: MODEL.into(),
        versions: vec![VERSION.into()],
        platform: MODEL.into(),
        inputs: metadata::inputs(service).map(tensor).into(),
        outputs: metadata::outputs(service).map(tensor).into(),
    })
}

pub(super) fn model_config(service: &Service, asked: ModelConfigRequest) -> Result<ModelConfigResponse, ApiError> {
    require_model(&asked.name)?;
    require_version(&asked.version)?;
    let data_type = |datatype| DataType::from_str_name(&metadata::data_type(datatype)).unwrap_or_default().into();
    // A request has a picture or pixels, so none of the inputs is in every request.
    let input = |(name, datatype, dims): (&str, _, _)| ModelInput {
        name: name.into(),
        data_type: data_type(datatype),
        dims,
        optional: true,
    };
    let output =
        |(name, datatype, dims): (&str, _, _)| ModelOutput { name: name.into(), data_type: data_type(datatype), dims };
    let config = ModelConfig {
        name: MODEL.into(),
        platform: MODEL.into(),
        backend: MODEL.into(),
        max_batch_size: 0,
        input: metadata::inputs(service).map(input).into(),
        output: metadata::outputs(service).map(output).into(),
    };
    Ok(ModelConfigResponse { config: Some(config) })
}

pub(super) fn repository_index(
    service: &Service,
    asked: RepositoryIndexRequest,
) -> Result<RepositoryIndexResponse, ApiError> {
    let [name, version, state, reason] = metadata::index(service);
    let model = ModelIndex { name, version, state, reason };
    Ok(RepositoryIndexResponse { models: if service.is_ready() || !asked.ready { vec![model] } else { vec![] } })
}

pub(super) fn model_statistics(
    service: &Service,
    asked: ModelStatisticsRequest,
) -> Result<ModelStatisticsResponse, ApiError> {
    if !asked.name.is_empty() {
        require_model(&asked.name)?;
    }
    require_version(&asked.version)?;
    let counters = service.metrics.statistics.read();
    let batch = |(batch_size, counters): (u64, BatchCounters)| InferBatchStatistics {
        batch_size,
        compute_input: times(counters.compute_input),
        compute_infer: times(counters.compute_infer),
        compute_output: times(counters.compute_output),
    };
    let requests = counters.requests;
    let model = ModelStatistics {
        name: MODEL.into(),
        version: VERSION.into(),
        last_inference: counters.last_inference,
        inference_count: counters.inference_count,
        execution_count: counters.execution_count,
        inference_stats: Some(InferStatistics {
            success: times(requests.success),
            fail: times(requests.fail),
            queue: times(requests.queue),
            compute_input: times(requests.compute_input),
            compute_infer: times(requests.compute_infer),
            compute_output: times(requests.compute_output),
            cache_hit: times(requests.cache_hit),
            cache_miss: times(requests.cache_miss),
        }),
        batch_stats: counters.batches.into_iter().map(batch).collect(),
    };
    Ok(ModelStatisticsResponse { model_stats: vec![model] })
}

fn times(Times { count, ns }: Times) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}

/// The region of a name, or all of them where there is none.
pub(super) fn regions(
    service: &Service,
    asked: SystemSharedMemoryStatusRequest,
) -> Result<SystemSharedMemoryStatusResponse, ApiError> {
    let regions = service.regions.status(Some(&asked.name[..]).filter(|name| !name.is_empty()))?;
    let status = |region: &Arc<Region>| {
        let Region { name, key, offset, byte_size, .. } = &**region;
        let status = RegionStatus { name: name.clone(), key: key.clone(), offset: *offset, byte_size: *byte_size };
        (name.clone(), status)
    };
    Ok(SystemSharedMemoryStatusResponse { regions: regions.iter().map(status).collect() })
}

pub(super) fn register_region(
    service: &Service,
    asked: SystemSharedMemoryRegisterRequest,
) -> Result<SystemSharedMemoryRegisterResponse, ApiError> {
    service.regions.register(&asked.name, &asked.key, asked.offset, asked.byte_size)?;
    Ok(SystemSharedMemoryRegisterResponse {})
}

pub(super) fn unregister_region(
    service: &Service,
    asked: SystemSharedMemoryUnregisterRequest,
) -> Result<SystemSharedMemoryUnregisterResponse, ApiError> {
    service.regions.unregister(Some(&asked.name[..]).filter(|name| !name.is_empty()));
    Ok(SystemSharedMemoryUnregisterResponse {})
}
