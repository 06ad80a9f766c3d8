package gateway

import (
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// statusLeft stands in the metrics for clients that left before they had their answer, as in the logs of nginx.
const statusLeft = 499

// meter counts and times what a server does, whether or not anybody registered it.
type meter struct {
	requests    atomic.Int64 // under way
	connections atomic.Int64
	seconds     *prometheus.HistogramVec // by status
}

func newMeter() *meter {
	m := &meter{seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "poq_gateway_request_seconds", Help: "Time of requests to the API from their headers to the end of the answer, by HTTP status; 499: the client left before.",
		Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
	}, []string{"status"})}
	m.seconds.WithLabelValues(strconv.Itoa(http.StatusOK)) // what has not happened yet is shown as 0
	return m
}

// observe counts the requests to h.
func (m *meter) observe(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.Add(1)
		begin, s := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			if r.Context().Err() != nil {
				s.status = statusLeft
			}
			m.seconds.WithLabelValues(strconv.Itoa(s.status)).Observe(time.Since(begin).Seconds())
			m.requests.Add(-1)
		}()
		h.ServeHTTP(s, r)
	})
}

// connection follows the connections of an [http.Server].
func (m *meter) connection(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		m.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		m.connections.Add(-1)
	}
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets [http.ResponseController] flush and set deadlines.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Load is what a [Server] has to do at one moment.
type Load struct {
	Requests    int `json:"requests"`    // under way
	Connections int `json:"connections"` // open, idle ones included
}

// Load returns what the server has to do.
func (s *Server) Load() Load {
	return Load{int(s.meter.requests.Load()), int(s.meter.connections.Load())}
}

var (
	descRequests    = prometheus.NewDesc("poq_gateway_requests", "Requests to the API that are under way.", nil, nil)
	descConnections = prometheus.NewDesc("poq_gateway_connections", "Open connections to the API.", nil, nil)
)

// A Server is a collector of its metrics.
var _ prometheus.Collector = (*Server)(nil)

// Describe implements [prometheus.Collector].
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	out <- descRequests
	out <- descConnections
	s.meter.seconds.Describe(out)
}

// Collect implements [prometheus.Collector].
func (s *Server) Collect(out chan<- prometheus.Metric) {
	l := s.Load()
	out <- prometheus.MustNewConstMetric(descRequests, prometheus.GaugeValue, float64(l.Requests))
	out <- prometheus.MustNewConstMetric(descConnections, prometheus.GaugeValue, float64(l.Connections))
	s.meter.seconds.Collect(out)
}
