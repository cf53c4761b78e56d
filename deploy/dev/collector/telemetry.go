package main

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/zap"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/service/telemetry"
)

// page is what stands under service::telemetry: where the Collector's own counters are shown. The Collector's own
// factory for that brings the clients of three clouds and of Kubernetes along, most of a build.
type page struct {
	Listen string `mapstructure:"listen"`
}

// countersPage makes the Collector's log, on standard error, and the page.
func countersPage() telemetry.Factory {
	return telemetry.NewFactory(
		func() component.Config { return &page{} },
		telemetry.WithCreateLogger(logger),
		telemetry.WithCreateMeterProvider(meters),
	)
}

func logger(
	_ context.Context, settings telemetry.LoggerSettings, _ component.Config,
) (*zap.Logger, component.ShutdownFunc, error) {
	built, err := settings.BuildZapLogger(zap.NewProductionConfig())
	return built, nil, err
}

// counters are the instruments of every component, and the server that shows them.
type counters struct {
	*metric.MeterProvider
	server *http.Server
}

func meters(_ context.Context, settings telemetry.MeterSettings, config component.Config) (telemetry.MeterProvider, error) {
	registry := prometheus.NewRegistry()
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", config.(*page).Listen)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			settings.Logger.Error("the page of counters has ended", zap.Error(err))
		}
	}()
	return &counters{metric.NewMeterProvider(metric.WithReader(reader)), server}, nil
}

// Shutdown ends the page with the instruments.
func (c *counters) Shutdown(ctx context.Context) error {
	return errors.Join(c.server.Shutdown(ctx), c.MeterProvider.Shutdown(ctx))
}
