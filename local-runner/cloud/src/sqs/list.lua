-- ARGV[2]: lower end, ARGV[3]: upper end (as for ZRANGEBYLEX), ARGV[4]: most names. Answers names in order.
return redis.call('ZRANGEBYLEX', KEYS[2] .. 'queues', ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
